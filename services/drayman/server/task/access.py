"""Who may call which RPC of the task service. Owners are checked where the task or the job is known."""

from drayman.server.platform.calls import Access, Rule

_OWNER = "the owner, administrators, members of the role `production`"

TASK_SERVICE = {
    "SubmitTask": Rule(Access.USER),
    "CommandTask": Rule(Access.USER, _OWNER),
    "GetTask": Rule(Access.READ),
    "GetTaskParameters": Rule(Access.READ),
    "GetTaskDetails": Rule(Access.READ),
    "ListTasks": Rule(Access.READ),
    "ListTaskInputs": Rule(Access.READ),
    "WatchTask": Rule(Access.READ),
    "ListJobMetadata": Rule(Access.READ),
    "RecoverLostFiles": Rule(Access.USER, _OWNER),
}

JOB_SERVICE = {
    "GetJobs": Rule(Access.READ),
    "ListJobs": Rule(Access.READ),
    "KillJobs": Rule(Access.USER, _OWNER),
    "SubmitJobs": Rule(Access.USER, "with the label `managed`: administrators, members of the role `production`"),
    "SetDebugMode": Rule(Access.USER, _OWNER),
    "WatchOutput": Rule(Access.USER, _OWNER),
}

PILOT_SERVICE = {
    "NextJob": Rule(Access.USER, "one's own jobs; administrators and members of the role `pilot` get anybody's"),
    "UpdateJobs": Rule(Access.USER, "who fetched the job, by its worker id"),
    "Attend": Rule(Access.USER, "as UpdateJobs"),
}

SANDBOX_SERVICE = {
    "PutSandbox": Rule(Access.USER),
    "GetSandbox": Rule(Access.READ, "who knows the name"),
    "FindSandbox": Rule(Access.USER, "one's own"),
}

FARM_SERVICE = {
    "ListOffers": Rule(Access.READ),
    "RegisterCredential": Rule(Access.USER, "one's own"),
    "GetCredential": Rule(Access.USER, "one's own"),
}

TABLES = {
    "drayman.task.v1.TaskService": TASK_SERVICE,
    "drayman.task.v1.JobService": JOB_SERVICE,
    "drayman.task.v1.PilotService": PILOT_SERVICE,
    "drayman.task.v1.SandboxService": SANDBOX_SERVICE,
    "drayman.task.v1.FarmService": FARM_SERVICE,
}
