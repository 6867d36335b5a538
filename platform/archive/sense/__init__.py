"""What an ultrasound object is of: regions, scale, modes, machine, organ and side."""
