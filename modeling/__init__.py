"""The one model family of our own, and the small trained model that the demo serves.

Importing this package is cheap: torch and transformers are imported by the modules that need them.
"""
