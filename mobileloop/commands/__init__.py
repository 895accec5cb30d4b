"""The subcommands of `mobileloop`, one module each; `cli` only dispatches."""
