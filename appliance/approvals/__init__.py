"""The desk where held commands wait for a person, and its ledger."""
