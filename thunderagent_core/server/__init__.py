"""The shell around the scheduler: HTTP in, engines out. ``runtime`` alone touches the scheduler."""
