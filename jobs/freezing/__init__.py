"""What a training snapshot is made of: settings, rows, sides, weights, the register of who stood where."""
