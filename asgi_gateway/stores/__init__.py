"""State behind the policies: counters in memory and in a store that several processes share."""
