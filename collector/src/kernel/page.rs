//! What a `struct page` says. Every key that matters is probed in VMCOREINFO; no kernel version is looked at.

use crate::vmcore::{Endian, VmcoreInfo};

/// `PAGE_MAPPING_ANON`, bit 0 of `mapping`: the page belongs to an anonymous area (a KSM page too).
const ANON: u64 = 1;
/// Bit 0 of `compound_head` (`compound_info` since v7.1): this is a tail page.
const TAIL: u64 = 1;
/// Low byte of a compound page's second `flags`, where its order is since v6.6.
const ORDER_IN_FLAGS: u64 = 0xff;

/// A value of `_mapcount` that says what a page is (`page_type` since v4.18).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PageType {
    mask: u32,
    value: u32,
}

impl PageType {
    /// No page has it.
    const NEVER: Self = Self { mask: 0, value: 1 };

    /// From a `NUMBER(PAGE_…_MAPCOUNT_VALUE)`. Up to v6.11 it is a negative number, compared whole. Since v6.12 the type is
    /// the top byte alone, and the others are free for the page's user.
    fn new(number: i64) -> Self {
        let [value, _] = split(number);
        let mask = if value & 0x00ff_ffff == 0 && value >> 31 == 1 { 0xff00_0000 } else { u32::MAX };
        Self { mask, value: value & mask }
    }

    fn probe(info: &VmcoreInfo, name: &str) -> Option<Self> {
        info.number(&format!("PAGE_{name}_MAPCOUNT_VALUE")).map(Self::new)
    }

    #[inline]
    fn matches(self, mapcount: u32) -> bool {
        mapcount & self.mask == self.value
    }
}

/// The low and the high half of a number, which VMCOREINFO prints as a signed long.
fn split(number: i64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

/// Where the order of a compound page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum OrderAt {
    /// Low byte of the second page's flags (since v6.6).
    Flags,
    /// A byte of the second page.
    Byte(usize),
    /// Nowhere that VMCOREINFO tells.
    Unknown,
}

/// How a hugetlb page is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum HugetlbBy {
    /// The head's type (since v6.9).
    Type(PageType),
    /// A flag of the second page (v6.6 to v6.8).
    Flag(u64),
    /// A byte of the second page with this value, the number of its destructor (up to v6.5).
    Destructor(usize, u8),
    /// Not at all: the kernel has none.
    Nothing,
}

/// The layout of `struct page` in one vmcore. Offsets are bytes from its start and were checked against its size.
#[derive(Clone, Debug)]
pub(crate) struct PageLayout {
    /// Bytes of a `struct page`.
    pub size: usize,
    endian: Endian,
    flags: usize,
    mapping: Option<usize>,
    mapcount: Option<usize>,
    private: Option<usize>,
    compound_head: Option<usize>,
    lru: u64,
    has_private: u64,
    swapcache: u64,
    swapbacked: u64,
    hwpoison: u64,
    head: u64,
    slab_flag: u64,
    slab: PageType,
    buddy: PageType,
    offline: PageType,
    unaccepted: PageType,
    order_at: OrderAt,
    hugetlb_by: HugetlbBy,
    hugetlb_orders: u64,
    /// LENGTH(zone.free_area): buddy orders are below; 64 when it is not told.
    free_orders: u64,
}

/// Where in a `struct page` the fields are that decide about a page which is no block's first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    /// Offset of 8 bytes.
    pub flags: usize,
    /// Offset of 8 bytes; bit 0 is anonymous memory.
    pub mapping: usize,
    /// Offset of 8 bytes; bit 0 is a tail.
    pub compound_head: usize,
    /// Offset of 4 bytes.
    pub mapcount: usize,
    /// Bits of the flags that matter: head, slab, LRU, private data, swap cache, backed by swap, memory error. 0 where
    /// there is no such flag.
    pub masks: [u64; 7],
    /// Byte order.
    pub big_endian: bool,
}

impl Places {
    /// The flag of heads.
    pub const HEAD: usize = 0;
}

/// A `struct page`, as far as most decisions need it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Page<'b> {
    bytes: &'b [u8],
    flags: u64,
    mapping: u64,
    mapcount: u32,
}

/// What a compound page's head and second page say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Compound {
    /// log2 of its pages; not yet checked against anything.
    pub order: u64,
    /// Whether it is hugetlb.
    pub hugetlb: bool,
}

impl PageLayout {
    /// Probes VMCOREINFO; an error names what is missing without which nothing can be said of any page.
    pub fn probe(info: &VmcoreInfo, endian: Endian, hugetlb_orders: &[u32]) -> Result<Self, String> {
        let size = info.size("page").ok_or("VMCOREINFO has no key SIZE(page)")?;
        // The kernel's is 56 to 96 bytes.
        let size = usize::try_from(size).ok().filter(|s| (32..=512).contains(s));
        let size = size.ok_or_else(|| format!("SIZE(page) is {}", info.size("page").unwrap_or(0)))?;
        let field = |name: &str, len: usize| {
            let at = usize::try_from(info.offset(name)?).ok()?;
            (at.checked_add(len)? <= size).then_some(at)
        };
        let flags = field("page.flags", 8).ok_or("VMCOREINFO has no usable key OFFSET(page.flags)")?;
        let number = |name: &str| info.number(name);
        let bit =
            |name: &str| number(name).and_then(|n| u32::try_from(n).ok()).and_then(|n| 1_u64.checked_shl(n));
        let slab_type = PageType::probe(info, "SLAB");
        let folio_byte = |name: &str| {
            let at = usize::try_from(info.offset(name)?).ok()?.checked_sub(size)?;
            (at < size).then_some(at)
        };
        let order_at = match number("PAGE_HUGETLB_MAPCOUNT_VALUE").or(number("PG_hugetlb")) {
            Some(_) => OrderAt::Flags,
            // v6.3 to v6.5 have it in struct folio, which spans two struct pages; before, in struct page.
            None => match folio_byte("folio._folio_order").or_else(|| field("page.compound_order", 1)) {
                Some(at) => OrderAt::Byte(at),
                None => OrderAt::Unknown,
            },
        };
        let destructor = folio_byte("folio._folio_dtor").or_else(|| field("page.compound_dtor", 1));
        let hugetlb_by = if let Some(kind) = PageType::probe(info, "HUGETLB") {
            HugetlbBy::Type(kind)
        } else if let Some(flag) = bit("PG_hugetlb") {
            HugetlbBy::Flag(flag)
        } else {
            let id = number("HUGETLB_PAGE_DTOR").and_then(|n| u8::try_from(n).ok());
            destructor.zip(id).map_or(HugetlbBy::Nothing, |(at, id)| HugetlbBy::Destructor(at, id))
        };
        Ok(Self {
            size,
            endian,
            flags,
            mapping: field("page.mapping", 8),
            mapcount: field("page._mapcount", 4),
            private: field("page.private", 8),
            // Renamed in v7.1; bit 0 kept its meaning.
            compound_head: field("page.compound_head", 8).or_else(|| field("page.compound_info", 8)),
            lru: bit("PG_lru").unwrap_or(0),
            has_private: bit("PG_private").unwrap_or(0),
            // PG_swapcache shares its bit with PG_owner_priv_1 since v4.10, and only PG_swapbacked tells which is meant.
            swapcache: if bit("PG_swapbacked").is_some() { bit("PG_swapcache").unwrap_or(0) } else { 0 },
            swapbacked: bit("PG_swapbacked").unwrap_or(0),
            hwpoison: bit("PG_hwpoison").unwrap_or(0),
            head: number("PG_head_mask").map_or(0, i64::cast_unsigned),
            // Where slab is a type (since v6.10) the flag's old bit has another meaning.
            slab_flag: if slab_type.is_some() { 0 } else { bit("PG_slab").unwrap_or(0) },
            slab: slab_type.unwrap_or(PageType::NEVER),
            buddy: PageType::probe(info, "BUDDY").unwrap_or(PageType::NEVER),
            offline: PageType::probe(info, "OFFLINE").unwrap_or(PageType::NEVER),
            unaccepted: PageType::probe(info, "UNACCEPTED").unwrap_or(PageType::NEVER),
            order_at,
            hugetlb_by,
            hugetlb_orders: hugetlb_orders
                .iter()
                .filter_map(|o| 1_u64.checked_shl(*o))
                .fold(0, |all, o| all | o),
            free_orders: info.length("zone.free_area").filter(|n| *n <= 64).unwrap_or(64),
        })
    }

    /// What VMCOREINFO lacks to tell page cache; `None` when it can be told.
    pub fn lacks_for_cache(&self) -> Option<&'static str> {
        match self {
            Self { lru: 0, .. } => Some("NUMBER(PG_lru)"),
            Self { has_private: 0, .. } => Some("NUMBER(PG_private)"),
            Self { mapping: None, .. } => Some("OFFSET(page.mapping)"),
            Self { compound_head: None, .. } => Some("OFFSET(page.compound_head)"),
            _ => None,
        }
    }

    /// What VMCOREINFO lacks to tell user pages; `None` when they can be told.
    pub fn lacks_for_user(&self) -> Option<&'static str> {
        match self {
            Self { mapping: None, .. } => Some("OFFSET(page.mapping)"),
            Self { compound_head: None, .. } => Some("OFFSET(page.compound_head)"),
            Self { mapcount: None, .. } => Some("OFFSET(page._mapcount)"),
            // Since v6.2 what is `mapping` in other pages is a list of a slab's, of any value.
            Self { slab_flag: 0, slab: PageType::NEVER, .. } => {
                Some("NUMBER(PG_slab) or NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)")
            }
            _ => None,
        }
    }

    /// What VMCOREINFO lacks to tell free pages; `None` when they can be told.
    pub fn lacks_for_free(&self) -> Option<&'static str> {
        match self {
            Self { mapcount: None, .. } => Some("OFFSET(page._mapcount)"),
            Self { private: None, .. } => Some("OFFSET(page.private)"),
            Self { buddy: PageType::NEVER, .. } => Some("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)"),
            _ => None,
        }
    }

    /// What VMCOREINFO lacks to tell some pages that a level with these bits drops: the key, and what is kept for want of it.
    /// Every kernel since v4.19 exports them.
    pub fn lacks_in_part(
        &self,
        cache: bool,
        user: bool,
    ) -> impl Iterator<Item = (&'static str, &'static str)> {
        let swap = "cache pages on their way to swap";
        [
            (cache && self.swapbacked == 0, "NUMBER(PG_swapbacked)", swap),
            (cache && self.swapbacked != 0 && self.swapcache == 0, "NUMBER(PG_swapcache)", swap),
            (
                (cache || user) && self.head == 0,
                "NUMBER(PG_head_mask)",
                "compound pages, but for their heads,",
            ),
        ]
        .into_iter()
        .filter_map(|(lacks, key, what)| lacks.then_some((key, what)))
    }

    /// Whether pages can be known that are dropped at every level.
    pub fn knows_unusable(&self) -> bool {
        self.hwpoison != 0 || (self.mapcount.is_some() && self.offline != PageType::NEVER)
    }

    /// The layout in numbers; `None` where a field is missing, or a page type is no negative number other than -1, so that a
    /// page in use may look like one of a type.
    pub fn places(&self) -> Option<Places> {
        let is_type = |kind: PageType| {
            kind == PageType::NEVER
                || (kind.mask >> 31 == 1 && kind.value >> 31 == 1 && kind.value != u32::MAX)
        };
        [self.slab, self.buddy, self.offline, self.unaccepted].into_iter().all(is_type).then_some(())?;
        Some(Places {
            flags: self.flags,
            mapping: self.mapping?,
            compound_head: self.compound_head?,
            mapcount: self.mapcount?,
            masks: [
                self.head,
                self.slab_flag,
                self.lru,
                self.has_private,
                self.swapcache,
                self.swapbacked,
                self.hwpoison,
            ],
            big_endian: self.endian == Endian::Big,
        })
    }

    /// LENGTH(zone.free_area): buddy orders are below.
    pub fn free_orders(&self) -> u64 {
        self.free_orders
    }

    #[inline]
    fn word(&self, bytes: &[u8], at: Option<usize>) -> u64 {
        at.and_then(|at| self.endian.u64(bytes, at)).unwrap_or(0)
    }

    /// Whether a `struct page` is of a compound page's tail: its head decides for it.
    #[inline]
    pub fn is_tail(&self, bytes: &[u8]) -> bool {
        self.word(bytes, self.compound_head) & TAIL != 0
    }

    /// Reads a `struct page` of [`PageLayout::size`] bytes.
    #[inline]
    pub fn page<'b>(&self, bytes: &'b [u8]) -> Page<'b> {
        Page {
            bytes,
            flags: self.word(bytes, Some(self.flags)),
            mapping: self.word(bytes, self.mapping),
            // What is not told is no type: -1 is an unmapped page.
            mapcount: self.mapcount.and_then(|at| self.endian.u32(bytes, at)).unwrap_or(u32::MAX),
        }
    }

    /// Whether it is a compound page's head.
    #[inline]
    pub fn is_head(&self, page: &Page<'_>) -> bool {
        page.flags & self.head != 0
    }

    /// What head and second page say of a compound page. `None` when the second is no tail, so that the head is none.
    pub fn compound(&self, page: &Page<'_>, second: &[u8]) -> Option<Compound> {
        if self.compound_head.is_some() && !self.is_tail(second) {
            return None;
        }
        let second_flags = self.word(second, Some(self.flags));
        let byte = |at: usize| second.get(at).copied().unwrap_or(0);
        let order = match self.order_at {
            OrderAt::Flags => second_flags & ORDER_IN_FLAGS,
            OrderAt::Byte(at) => u64::from(byte(at)),
            OrderAt::Unknown => 0,
        };
        let hugetlb = match self.hugetlb_by {
            HugetlbBy::Type(kind) => kind.matches(page.mapcount),
            // The flag alone is no evidence: other compound pages were seen with it, one of them held the IDT. So the
            // order must be one that hugetlb has, and the page neither slab nor on an LRU list.
            HugetlbBy::Flag(flag) => {
                second_flags & flag != 0
                    && self.hugetlb_orders >> order.min(63) & 1 == 1
                    && page.flags & (self.lru | self.slab_flag) == 0
            }
            HugetlbBy::Destructor(at, id) => byte(at) == id,
            HugetlbBy::Nothing => false,
        };
        Some(Compound { order, hugetlb })
    }

    #[inline]
    fn is_slab(&self, page: &Page<'_>) -> bool {
        self.slab.matches(page.mapcount) || page.flags & self.slab_flag != 0
    }

    /// Anonymous memory, KSM included.
    #[inline]
    pub fn is_anon(&self, page: &Page<'_>) -> bool {
        page.mapping & ANON != 0 && !self.is_slab(page)
    }

    /// On an LRU list or in the swap cache; anonymous pages are too.
    #[inline]
    pub fn is_cache(&self, page: &Page<'_>) -> bool {
        page.flags & self.lru != 0 || (page.flags & self.swapbacked != 0 && page.flags & self.swapcache != 0)
    }

    /// Has buffer heads or other data of its file system.
    #[inline]
    pub fn has_private(&self, page: &Page<'_>) -> bool {
        page.flags & self.has_private != 0
    }

    /// First page of a free block.
    #[inline]
    pub fn is_buddy(&self, page: &Page<'_>) -> bool {
        self.buddy.matches(page.mapcount) && !self.is_slab(page)
    }

    /// The order of a free block, from its first page; not yet checked against anything.
    #[inline]
    pub fn buddy_order(&self, page: &Page<'_>) -> u64 {
        self.word(page.bytes, self.private)
    }

    /// First page of a block that the host has not given yet.
    #[inline]
    pub fn is_unaccepted(&self, page: &Page<'_>) -> bool {
        self.unaccepted.matches(page.mapcount)
    }

    /// Broken memory: reading it may stop the machine.
    #[inline]
    pub fn is_hwpoison(&self, page: &Page<'_>) -> bool {
        page.flags & self.hwpoison != 0
    }

    /// Taken back by the host.
    #[inline]
    pub fn is_offline(&self, page: &Page<'_>) -> bool {
        self.offline.matches(page.mapcount) && !self.is_slab(page)
    }
}
