"""Push: choosing cases, sending them, the ledger of what was sent, and proving it."""
