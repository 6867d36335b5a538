"""One study in, its draft out: de-identified frames, report, entities and boxes."""
