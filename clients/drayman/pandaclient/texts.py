"""Functions of texts. They ask nobody.

PanDA, section 3.4 of its behaviour.
"""

from __future__ import annotations

import re
import sys
import traceback
from typing import Any


def getDN(origString: str) -> str:
    """Return the short name in a subject such as `/DC=x/CN=jdoe/CN=Jane Doe`: `JaneDoe`.

    Of the parts `CN=`, without the digits at their end, dots and outer blanks, the first with a blank inside counts, which is left out;
    else the first; without any it is "". Section 3.4.
    """
    names = [part.removeprefix("CN=") for part in origString.split("/") if part.startswith("CN=")]
    names = [re.sub(r"\d+$", "", name).replace(".", "").strip() for name in names]
    full = next((name for name in names if " " in name), None)
    if full is not None:
        return full.replace(" ", "")
    return next((name for name in names if name), "")


def is_https(url: str) -> bool:
    """Whether a URL begins with `https://`, in lower case. Section 3.4."""
    return url.startswith("https://")


def str_decode(data: Any) -> Any:
    """Return bytes as a text (UTF-8), anything else as it is. Section 3.4."""
    return data.decode() if isinstance(data, bytes) else data


def hide_sensitive_info(com: Any) -> str:
    """Return the text of anything without bearer tokens: from `Bearer ` up to the next quote there is `***"`. Section 3.4."""
    return re.sub(r"Bearer [^\"']+", '***"', str(com))


def dump_log(func_name: str, exception_obj: Any, output: Any) -> str:
    """Print a traceback and the output that led to it, without bearer tokens; return `<func_name> failed : <exception>`. Section 3.4."""
    text = hide_sensitive_info(f"{func_name} failed : {exception_obj}")
    if isinstance(exception_obj, BaseException):
        print(hide_sensitive_info("".join(traceback.format_exception(exception_obj))), end="")
    elif sys.exc_info()[0] is not None:
        print(hide_sensitive_info(traceback.format_exc()), end="")
    print(text)
    print(hide_sensitive_info(output))
    return text
