"""Reading an ultrasound archive: objects to instances, instances to de-identified key frames."""
