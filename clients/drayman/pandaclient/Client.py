"""PanDA's client functions, speaking to Drayman: the same names, arguments and results. Workflows come later.

    from drayman.pandaclient import Client

    status, (code, message, task_id) = Client.insertTaskParams(parameters, properErrorCode=True)
    status, state = Client.getTaskStatus(task_id)
    status, (stored, text) = Client.set_user_secret("TOKEN", "...")
    status, (found, secrets) = Client.get_user_secrets()

A function that calls the service returns `(status, payload)`: status 0 if an answer came, 255 with a text if none did, or if the token is
not accepted. What the service thinks of the request is in the payload. Nothing is repeated; a call takes at most 10 minutes. With
`verbose` a function prints what it does, and no secret; the result is the same.

The environment is read at each call:

* PANDA_URL_SSL, else PANDA_URL, else DRAYMAN_URL: where the service is, `grpc://HOST:PORT` or `grpcs://HOST:PORT` for TLS (`http` and
  `https` are taken for these).
* PANDA_AUTH_ID_TOKEN, OIDC_AUTH_TOKEN_FILE, OIDC_AUTH_ID_TOKEN, in this order: the token that calls carry. With PANDA_AUTH=oidc then the
  one that `get_new_token` has cached; then DRAYMAN_TOKEN, and what `drayman login` has kept. A token of another issuer is traded for a
  session token once.
* PANDACACHE_URL, else the same: where sandboxes are, see `putFile` and `setCacheServer`.
* PANDA_DEV_URL, PANDA_INTR_URL: see `useDevServer` and `useIntrServer`.
* PANDA_AUTH_VO, else OIDC_AUTH_VO; PANDA_CONFIG_ROOT: see `get_new_token`.

Section numbers in docstrings are those of PanDA's description of behaviour.
"""

from __future__ import annotations

from drayman.pandaclient.device_login import (
    get_new_token,
)
from drayman.pandaclient.farm import (
    getCachePrefixes,
    getCmtConfigList,
    getProxyKey,
    registerProxyKey,
)
from drayman.pandaclient.identity import (
    get_cert_attributes,
    get_user_name_from_token,
)
from drayman.pandaclient.jobs import (
    get_job_descriptions,
    getFullJobStatus,
    getJobStatus,
    killJobs,
    setDebugMode,
    submitJobs,
)
from drayman.pandaclient.sandboxes import (
    getFile,
    putFile,
)
from drayman.pandaclient.server import (
    getPandaClientVer,
    hello,
)
from drayman.pandaclient.settings import (
    setCacheServer,
    setGlobalTmpDir,
    use_oidc,
    use_x509_no_grid,
    useDevServer,
    useIntrServer,
)
from drayman.pandaclient.task_commands import (
    finishTask,
    increase_attempt_nr,
    killTask,
    pauseTask,
    reactivateTask,
    reload_input,
    resumeTask,
    retryTask,
    send_file_recovery_request,
)
from drayman.pandaclient.task_digests import (
    get_parent_detailed_info,
    get_task_details_json,
    get_tasks_detailed_info_since,
    getJediTaskDetails,
    getJobIDsJediTasksInTimeRange,
)
from drayman.pandaclient.task_reading import (
    get_files_in_datasets,
    getPandaIDsWithTaskID,
    getTaskParamsMap,
    getTaskStatus,
    getUserJobMetadata,
)
from drayman.pandaclient.task_submission import (
    insertTaskParams,
)
from drayman.pandaclient.texts import (
    dump_log,
    getDN,
    hide_sensitive_info,
    is_https,
    str_decode,
)
from drayman.pandaclient.token_sources import (
    get_token_string,
)
from drayman.pandaclient.user_secrets import (
    get_user_secerts,
    get_user_secrets,
    set_user_secert,
    set_user_secret,
)

__all__ = [
    "dump_log",
    "finishTask",
    "getCachePrefixes",
    "getCmtConfigList",
    "getDN",
    "getFile",
    "getFullJobStatus",
    "getJediTaskDetails",
    "getJobIDsJediTasksInTimeRange",
    "getJobStatus",
    "getPandaClientVer",
    "getPandaIDsWithTaskID",
    "getProxyKey",
    "getTaskParamsMap",
    "getTaskStatus",
    "getUserJobMetadata",
    "get_cert_attributes",
    "get_files_in_datasets",
    "get_job_descriptions",
    "get_new_token",
    "get_parent_detailed_info",
    "get_task_details_json",
    "get_tasks_detailed_info_since",
    "get_token_string",
    "get_user_name_from_token",
    "get_user_secerts",
    "get_user_secrets",
    "hello",
    "hide_sensitive_info",
    "increase_attempt_nr",
    "insertTaskParams",
    "is_https",
    "killJobs",
    "killTask",
    "pauseTask",
    "putFile",
    "reactivateTask",
    "registerProxyKey",
    "reload_input",
    "resumeTask",
    "retryTask",
    "send_file_recovery_request",
    "setCacheServer",
    "setDebugMode",
    "setGlobalTmpDir",
    "set_user_secert",
    "set_user_secret",
    "str_decode",
    "submitJobs",
    "useDevServer",
    "useIntrServer",
    "use_oidc",
    "use_x509_no_grid",
]
