"""The process that holds desk, policy, identities and credentials."""
