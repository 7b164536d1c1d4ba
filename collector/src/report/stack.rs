//! What a stack tells of a crash, without what every crash has on its stack.

use crate::triage::stack::{How, Stack};

/// A function that was running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call<'s> {
    /// Its name, without what a compiler adds to that of a part or a copy.
    pub function: &'s str,
    /// Its module; none of the kernel itself.
    pub module: Option<&'s str>,
}

/// The functions on a stack, from the innermost out; guesses are left out.
pub fn calls(stack: &Stack) -> Vec<Call<'_>> {
    let known = stack.frames.iter().filter(|frame| frame.how != How::Guess);
    known
        .filter_map(|frame| {
            let module = frame.spot.as_ref()?.module.as_deref();
            Some(Call { function: frame.function()?, module })
        })
        .collect()
}

/// Functions between what went wrong and the crash kernel, in the order of a dying kernel: they are in the stacks of most
/// crashes, and say nothing about any.
const MACHINERY: &[&str] = &[
    "machine_kexec",
    "__crash_kexec",
    "crash_kexec",
    "panic",
    "vpanic",
    "nmi_panic",
    "nmi_panic_self_stop",
    "mce_panic",
    "oops_end",
    "oops_exit",
    "die",
    "__die",
    "__die_body",
    "die_addr",
    "die_kernel_fault",
    "__do_kernel_fault",
    "bust_spinlocks",
    "no_context",
    "__bad_area_nosemaphore",
    "bad_area_nosemaphore",
    "page_fault_oops",
    "kernelmode_fixup_or_oops",
    "do_kern_addr_fault",
    "do_user_addr_fault",
    "do_page_fault",
    "exc_page_fault",
    "asm_exc_page_fault",
    "fixup_exception",
    "do_trap",
    "do_error_trap",
    "handle_invalid_op",
    "handle_bug",
    "report_bug",
    "bug_handler",
    "call_break_hook",
    "brk_handler",
    "__warn",
    "warn_slowpath_fmt",
    "exc_invalid_op",
    "asm_exc_invalid_op",
    "exc_general_protection",
    "asm_exc_general_protection",
    "exc_divide_error",
    "asm_exc_divide_error",
    "exc_stack_segment",
    "asm_exc_stack_segment",
    "handle_stack_overflow",
    "exc_double_fault",
    "asm_exc_double_fault",
    "exc_int3",
    "asm_exc_int3",
    "do_mem_abort",
    "do_debug_exception",
    "el1_abort",
    "el1_dbg",
    "el1h_64_sync_handler",
    "el1h_64_sync",
    "__fortify_panic",
    "fortify_panic",
    "__stack_chk_fail",
    "__list_add_valid",
    "__list_add_valid_or_report",
    "__list_del_entry_valid",
    "__list_del_entry_valid_or_report",
];

/// Where a kernel that gives up comes from whatever went wrong: what it did since, if nobody took over, is not the cause.
const GIVES_UP: &[&str] = &["panic", "vpanic", "crash_kexec", "oops_end", "die", "arm64_notify_die"];

/// Whether a function is on the stacks of most crashes.
pub fn is_machinery(function: &str) -> bool {
    MACHINERY.contains(&function)
}

/// How a timer found that a CPU was stuck: what was interrupted is below.
const WATCHDOG: &[&str] = &[
    "watchdog_timer_fn",
    "__run_hrtimer",
    "__hrtimer_run_queues",
    "hrtimer_interrupt",
    "local_apic_timer_interrupt",
    "__sysvec_apic_timer_interrupt",
    "sysvec_apic_timer_interrupt",
    "asm_sysvec_apic_timer_interrupt",
    "smp_apic_timer_interrupt",
    "watchdog_overflow_callback",
    "watchdog_hardlockup_check",
    "__perf_event_overflow",
    "perf_event_overflow",
    "handle_pmi_common",
    "intel_pmu_handle_irq",
    "perf_event_nmi_handler",
    "nmi_handle",
    "default_do_nmi",
    "exc_nmi",
    "end_repeat_nmi",
    "asm_exc_nmi",
    "panic_on_rcu_stall",
    "rcu_sched_clock_irq",
    "rcu_pending",
    "check_cpu_stall",
    "print_cpu_stall",
    "print_other_cpu_stall",
    "update_process_times",
    "tick_sched_handle",
    "tick_sched_timer",
    "tick_nohz_handler",
    "tick_nohz_highres_handler",
    "el1h_64_irq",
    "el1h_64_irq_handler",
    "el1_interrupt",
    "do_interrupt_handler",
    "call_on_irq_stack",
    "gic_handle_irq",
    "generic_handle_domain_irq",
    "handle_percpu_devid_irq",
    "arch_timer_handler_virt",
    "arch_timer_handler_phys",
];

/// How a task comes to wait, whatever it waits for.
const WAITING: &[&str] = &[
    "__switch_to",
    "__switch_to_asm",
    "context_switch",
    "__schedule",
    "schedule",
    "schedule_preempt_disabled",
    "schedule_timeout",
    "io_schedule",
    "io_schedule_timeout",
    "bit_wait",
    "bit_wait_io",
    "out_of_line_wait_on_bit",
    "out_of_line_wait_on_bit_lock",
    "__wait_on_bit",
    "__wait_on_bit_lock",
    "wait_on_bit",
    "__mutex_lock",
    "__mutex_lock_slowpath",
    "__mutex_lock_killable_slowpath",
    "__mutex_lock_interruptible_slowpath",
    "mutex_lock",
    "mutex_lock_killable",
    "mutex_lock_interruptible",
    "mutex_lock_io",
    "__rt_mutex_slowlock",
    "rt_mutex_slowlock",
    "rwsem_down_read_slowpath",
    "rwsem_down_write_slowpath",
    "down_read",
    "down_write",
    "down_read_killable",
    "down_write_killable",
    "__down",
    "__down_common",
    "down",
    "down_timeout",
    "__down_timeout",
    "do_wait_for_common",
    "__wait_for_common",
    "wait_for_completion",
    "wait_for_completion_io",
    "wait_for_completion_killable",
    "wait_for_completion_timeout",
    "folio_wait_bit",
    "folio_wait_bit_common",
    "wait_on_page_bit",
    "__folio_lock",
    "__lock_page",
    "folio_wait_writeback",
    "__wait_on_buffer",
    "synchronize_rcu",
    "wait_rcu_gp",
    "__wait_rcu_gp",
];

/// Where a stack comes to what is the same in many: the entry from user space, a thread's beginning, an idle CPU.
const BOTTOM: &[&str] = &[
    "entry_SYSCALL_64",
    "entry_SYSCALL_64_after_hwframe",
    "entry_SYSENTER_compat_after_hwframe",
    "do_syscall_64",
    "x64_sys_call",
    "do_fast_syscall_32",
    "__do_fast_syscall_32",
    "ret_from_fork",
    "ret_from_fork_asm",
    "kthread",
    "do_idle",
    "cpu_startup_entry",
    "el0t_64_sync",
    "el0t_64_sync_handler",
    "el0_svc",
    "do_el0_svc",
    "invoke_syscall",
    "el0_svc_common",
];

/// Functions that find a CPU to be stuck.
const FINDS: &[&str] = &[
    "watchdog_timer_fn",
    "watchdog_overflow_callback",
    "watchdog_hardlockup_check",
    "panic_on_rcu_stall",
    "check_cpu_stall",
    "print_cpu_stall",
    "print_other_cpu_stall",
];

fn is(list: &[&str], call: &Call<'_>) -> bool {
    list.contains(&call.function)
}

/// What a stack is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Of {
    /// A task that died.
    Dead,
    /// A CPU that a watchdog found stuck.
    Stuck,
    /// A task that waits.
    Waiting,
}

/// The functions that tell of a crash.
pub fn telling<'s>(calls: &[Call<'s>], of: Of) -> Vec<Call<'s>> {
    let skip = |list: &[&str], from: usize| {
        let rest = calls.get(from..).unwrap_or_default();
        from.saturating_add(rest.iter().position(|call| !is(list, call)).unwrap_or(rest.len()))
    };
    let gave_up = calls.iter().position(|call| is(GIVES_UP, call)).filter(|_| of != Of::Waiting);
    let mut start = skip(if of == Of::Waiting { WAITING } else { MACHINERY }, gave_up.unwrap_or(0));
    let found = calls.get(start).is_some_and(|call| is(FINDS, call));
    if of == Of::Stuck || (found && of == Of::Dead) {
        start = skip(WATCHDOG, start);
    }
    let rest = calls.get(start..).unwrap_or_default();
    let end = rest.iter().position(|call| is(BOTTOM, call)).unwrap_or(rest.len());
    rest.get(..end).unwrap_or_default().to_vec()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Functions by name; `module:function`.
    pub fn named(names: &str) -> Vec<Call<'_>> {
        let pairs = names.split_whitespace().map(|name| match name.split_once(':') {
            Some((module, function)) => (function, Some(module)),
            None => (name, None),
        });
        pairs.map(|(function, module)| Call { function, module }).collect()
    }

    #[test]
    fn what_tells_of_a_crash() {
        let cases = [
            (
                "__crash_kexec panic sysrq_handle_crash __handle_sysrq write_sysrq_trigger vfs_write do_syscall_64 x",
                Of::Dead,
                "sysrq_handle_crash __handle_sysrq write_sysrq_trigger vfs_write",
            ),
            (
                "__crash_kexec crash_kexec oops_end page_fault_oops exc_page_fault asm_exc_page_fault \
                 crasher:crasher_null crasher:init_module do_one_initcall do_syscall_64",
                Of::Dead,
                "crasher_null init_module do_one_initcall",
            ),
            (
                "panic watchdog_timer_fn __hrtimer_run_queues hrtimer_interrupt sysvec_apic_timer_interrupt \
                 asm_sysvec_apic_timer_interrupt m:spin m:init entry_SYSCALL_64_after_hwframe",
                Of::Dead,
                "spin init",
            ),
            (
                "crash_kexec oops_end do_trap exc_invalid_op asm_exc_invalid_op m:timer __hrtimer_run_queues do_idle",
                Of::Dead,
                "timer __hrtimer_run_queues",
            ),
            ("__schedule schedule __mutex_lock m:one kthread ret_from_fork", Of::Waiting, "one"),
            ("panic", Of::Dead, ""),
            ("", Of::Waiting, ""),
            ("panic __hrtimer_run_queues asm_sysvec_apic_timer_interrupt m:spin", Of::Stuck, "spin"),
            (
                "call_on_irq_stack el1_interrupt el1h_64_irq __delay panic sysrq_handle_crash __handle_sysrq",
                Of::Dead,
                "sysrq_handle_crash __handle_sysrq",
            ),
        ];
        for (names, of, wanted) in cases {
            let told: Vec<&str> = telling(&named(names), of).iter().map(|c| c.function).collect();
            assert_eq!(told.join(" "), wanted, "{names}");
        }
    }
}
