"""What a machine is: probed, described in a file, shown as a card."""
