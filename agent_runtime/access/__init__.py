"""Who may do what: API keys, their tenants and roles, and a record of what was done.

request ── key ── rate ── role ── is the session the tenant's? ── route
"""
