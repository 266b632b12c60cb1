"""The front door: the command line and the demo. Each package is imported only when its verb is called."""
