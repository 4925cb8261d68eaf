"""The model of a deployment: from what was measured, and what is wanted, to hosts, tables and money.  (pure)"""
