"""Pure decisions: no clock, no I/O, no event loop; time and chance are arguments."""
