"""Session tokens as they look from outside: what they say of themselves, and no signature."""

import base64
import json
import time
from typing import Any
from uuid import uuid4


def made_token(seconds: float = 3600, life: float = 3600, **claims: Any) -> str:
    """Return a token that expires in so many seconds and was made for `life`."""
    end = time.time() + seconds
    content = {"sub": "ann", "iat": end - life, "exp": end, "sid": str(uuid4()), "jti": uuid4().hex} | claims
    return f"e30.{base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip('=')}.c2ln"
