"""Where changes come from, compared: what each source costs, and how late it is."""
