"""What `sonoloop drift` looks at: pictures, drafts and corrections, by month and scanner."""
