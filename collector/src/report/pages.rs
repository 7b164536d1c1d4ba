//! Pages by class, as the kernel's own mem_map has them, and how many of each a dump has.

use crate::engine::Engine;
use crate::filter::Level;
use crate::progress::Silent;

/// Pages of one class.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Class {
    /// Its name.
    pub name: &'static str,
    /// How many pages the machine had.
    pub all: u64,
    /// How many of them are in the dump.
    pub kept: u64,
}

/// Each class that has pages. Bytes of a page come first.
///
/// mem_map is scanned once for each bit of a level: what a bit would take out of the dump is what the dump has of that class.
pub fn classes(engine: &mut Engine<'_>) -> Option<(u64, Vec<Class>)> {
    let mut kept = |level| Some(engine.select(Level::new(level)?, &Silent)?.account.kept);
    let [held, cache, private, user, free] = [kept(0)?, kept(2)?, kept(4)?, kept(8)?, kept(16)?];
    let left = |without: u64| held.saturating_sub(without);
    // Bit 4 takes what bit 2 takes, too.
    let (cache, private) = (left(cache), left(private).saturating_sub(left(cache)));
    let account = engine.select(Level::new(30)?, &Silent)?.account;
    let all = [
        ("the kernel's", account.kept.saturating_add(account.earlier), account.kept),
        ("programs, huge pages", account.user.saturating_add(account.hugetlb), left(user)),
        ("page cache", account.cache, cache),
        ("page cache with private data", account.cache_private, private),
        ("free", account.free.saturating_add(account.unaccepted), left(free)),
        ("broken or offline", account.hwpoison.saturating_add(account.offline), 0),
    ];
    let page = engine.vmcore().page_size().bytes();
    let (_, machine) = engine.vmcore().held();
    let unknown = (machine / page).saturating_sub(account.present);
    let all = all.into_iter().chain([("of a class that is not known", unknown, 0)]);
    let all = all.map(|(name, all, kept)| Class { name, all, kept: kept.min(all) });
    Some((page, all.filter(|class| class.all > 0).collect()))
}
