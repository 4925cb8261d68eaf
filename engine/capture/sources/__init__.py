"""Where changes come from: one small interface (`base`), and what makes the source that the settings name (`make`)."""
