"""What ``sonoloop report`` is made of: the evidence, the figures over it, the plots and the page."""
