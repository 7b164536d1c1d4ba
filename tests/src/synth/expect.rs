//! The expected verdict of a page: what the page *is*, and from which level bits that makes it go.
//!
//! A table, not the predicates of the filter: the builder knows what it put where.

/// Why a page is not in the dump.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[expect(missing_docs, reason = "named as the account names them")]
pub enum Why {
    Zero,
    Cache,
    CachePrivate,
    User,
    Hugetlb,
    Free,
    Unaccepted,
    Hwpoison,
    Offline,
}

/// Rules of a page, first match wins: (level bits of which one suffices, reason). [`ALWAYS`] needs no bit.
pub type Class = &'static [(u8, Why)];

/// Dropped at every level.
pub const ALWAYS: u8 = 0x80;

/// Never dropped, unless it is zero.
pub const KEEP: Class = &[];
/// Page cache without private data: bit 2, and bit 4 implies it.
pub const CACHE: Class = &[(2 | 4, Why::Cache)];
/// Page cache with private data.
pub const CACHE_PRIVATE: Class = &[(4, Why::CachePrivate)];
/// Anonymous memory.
pub const USER: Class = &[(8, Why::User)];
/// hugetlb, free in its pool or not.
pub const HUGETLB: Class = &[(8, Why::Hugetlb)];
/// Free.
pub const FREE: Class = &[(16, Why::Free)];
/// Unaccepted.
pub const UNACCEPTED: Class = &[(16, Why::Unaccepted)];
/// Bad memory of no other use.
pub const HWPOISON: Class = &[(ALWAYS, Why::Hwpoison)];
/// Bad memory in the page cache.
pub const HWPOISON_CACHE: Class = &[(2 | 4, Why::Cache), (ALWAYS, Why::Hwpoison)];
/// Bad anonymous memory.
pub const HWPOISON_USER: Class = &[(8, Why::User), (ALWAYS, Why::Hwpoison)];
/// Ballooned.
pub const OFFLINE: Class = &[(ALWAYS, Why::Offline)];

/// The verdict on a page: `None` keeps it.
pub fn verdict(class: Class, zero: bool, level: u8) -> Option<Why> {
    let rule = class.iter().find(|(bits, _)| (level | ALWAYS) & bits != 0);
    rule.map(|(_, why)| *why).or((zero && level & 1 != 0).then_some(Why::Zero))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let cases = [
            (KEEP, false, 31, None),
            (KEEP, true, 30, None),
            (KEEP, true, 1, Some(Why::Zero)),
            (CACHE, false, 2, Some(Why::Cache)),
            (CACHE, false, 4, Some(Why::Cache)),
            (CACHE, true, 25, Some(Why::Zero)),
            (CACHE_PRIVATE, false, 2, None),
            (CACHE_PRIVATE, true, 31, Some(Why::CachePrivate)),
            (HWPOISON_USER, false, 8, Some(Why::User)),
            (HWPOISON_USER, false, 0, Some(Why::Hwpoison)),
            (OFFLINE, true, 1, Some(Why::Offline)),
        ];
        for (class, zero, level, want) in cases {
            assert_eq!(verdict(class, zero, level), want, "{class:?} {zero} {level}");
        }
    }
}
