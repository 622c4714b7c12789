"""What the machine allows, measured in the same run, and how near every layer of an engine comes to it."""
