"""A whole Drayman for somebody's own tests: real services, a real PostgreSQL, on loopback, gone afterwards.

from drayman.testing import local_stack

with local_stack() as stack:
    stack.add_user("ann", password="secret")
    client = DataDispatcherClient(stack.url, stack.url, token=stack.token("ann"))
"""

from drayman.testing.stack import LocalStack, StackError, local_stack

__all__ = ["LocalStack", "StackError", "local_stack"]
