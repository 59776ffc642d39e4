"""State behind the policies: counters in memory now, in a shared store later."""
