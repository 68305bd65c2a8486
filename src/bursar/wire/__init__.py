"""What travels between client and server: requests, responses, errors and their encoding.

The rule that lives here: a request is either understood completely or refused with every
reason named. Nothing in this package knows budgets, storage or HTTP.
"""
