"""mobileloop_bench: the machine, the measurement and the report.

Data flows one way: `machine` and `bandwidth` say where a figure comes from, `plan` says what is measured,
`measure` and `memory` measure it, `rows` counts bytes and judges validity, `results` is the JSON document,
and `card`, `tables` and `report` show it.
"""
