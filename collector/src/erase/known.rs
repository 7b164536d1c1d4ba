//! What BTF does not tell: types of the global variables that people erase, and where instances of a type are.

/// Symbols and their types, as rules write them. Each is checked against the room that the symbol has before it is believed.
const TYPES: &[(&str, &str)] = &[
    ("init_task", "task_struct"),
    ("init_mm", "mm_struct"),
    ("init_cred", "cred"),
    ("init_signals", "signal_struct"),
    ("init_uts_ns", "uts_namespace"),
    ("init_pid_ns", "pid_namespace"),
    ("init_user_ns", "user_namespace"),
    ("init_nsproxy", "nsproxy"),
    ("init_net", "net"),
    ("root_user", "user_struct"),
    ("saved_command_line", "char*"),
    ("static_command_line", "char*"),
    ("initcall_command_line", "char*"),
    ("extra_command_line", "char*"),
    ("extra_init_args", "char*"),
    ("linux_banner", "char[]"),
    ("linux_proc_banner", "char[]"),
    ("modules", "list_head"),
    ("super_blocks", "list_head"),
    ("slab_caches", "list_head"),
    ("file_systems", "file_system_type*"),
    ("net_namespace_list", "list_head"),
    ("crypto_alg_list", "list_head"),
    ("runqueues", "rq"),
];

/// The type of a symbol.
pub(super) fn type_of(symbol: &str) -> Option<&'static str> {
    TYPES.iter().find(|(name, _)| *name == symbol).map(|(_, ty)| *ty)
}

/// Rules that reach every instance of a type that lists of the kernel lead to; `@` stands for the members. Idle tasks are
/// on no list but each CPU's run queue. Instances that were freed are on none.
const INSTANCES: &[(&str, &str)] = &[
    ("task_struct", "erase init_task@\nerase runqueues.idle@\nTHREADS erase u@\nENDS"),
    ("mm_struct", "erase init_mm@\nTHREADS erase u.active_mm@\nENDS"),
    ("signal_struct", "TASKS erase t.signal@\nendfor"),
    ("cred", "erase init_cred@\nTHREADS erase u.cred@\nerase u.real_cred@\nENDS"),
    ("module", "for m in modules within module:list\nerase m@\nendfor"),
    ("super_block", "for s in super_blocks within super_block:s_list\nerase s@\nendfor"),
];

const TASKS: &str = "for t in init_task.tasks within task_struct:tasks\n";
const THREADS: &str = "for u in t.signal.thread_head within task_struct:thread_node\n";

/// The types that [`instances`] knows, for messages.
pub(super) fn listed() -> String {
    INSTANCES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

/// The rules for `type.members`, `how` among the rest of the line.
pub(super) fn instances(ty: &str, members: &str, how: &str) -> Option<String> {
    let (_, rules) = INSTANCES.iter().find(|(name, _)| *name == ty)?;
    let expanded = rules
        .replace("THREADS ", &format!("{TASKS}{THREADS}"))
        .replace("TASKS ", TASKS)
        .replace("ENDS", "endfor\nendfor");
    Some(expanded.replace('@', &format!("{members} {how}")))
}
