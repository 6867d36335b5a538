"""Label Studio's ML backend protocol: drafts for readers who open a task without one, or ask for one."""
