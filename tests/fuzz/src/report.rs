//! The report on a crash, of a kernel that nobody can trust.

use crate::sample::{Flat, kernel};
use crate::{Bases, Draw};
use collector::manifest::CrashedKernel;
use collector::report::{Report, html, text};
use collector::triage::{About, Budget, Dead, Pages};
use collector::vmcore::{EM_X86_64, VmcoreInfo};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The input is patches of the small kernel: page, place, how many bytes, the bytes. Its symbols, types, ORC tables, tasks, stacks
/// and lists are all in reach.
pub fn report(_: &Bases, data: &[u8]) {
    static KERNELS: OnceLock<[(Flat, VmcoreInfo); 2]> = OnceLock::new();
    let mut draw = Draw(data);
    let (memory, info) = &KERNELS.get_or_init(|| [false, true].map(kernel))[usize::from(draw.byte() & 1)];
    let mut memory = memory.clone();
    while !draw.0.is_empty() {
        let (page, place) = (usize::from(draw.byte()), usize::try_from(draw.number(2)).unwrap_or(0));
        let len = 1 + usize::from(draw.byte() % 8);
        let count = memory.pages.len();
        let page = &mut memory.pages[page % count].1;
        let at = place % page.len();
        page.iter_mut().skip(at).zip(draw.bytes(len)).for_each(|(to, from)| *to = *from);
    }
    let start = Instant::now();
    let pages = Pages::new(&memory, Budget::new(Some(Duration::from_secs(2))));
    let about = About { info, machine: EM_X86_64, page: 4096, prstatus: vec![&[0x81; 336]], live: false };
    let report = Report::of(&Dead::open(&pages, about), CrashedKernel::default());
    let said = text::text(&report);
    assert!(said.len() <= text::MAX && said.lines().all(|line| line.chars().count() <= 100), "{said}");
    let json: Result<serde_json::Value, _> = serde_json::from_str(&report.json());
    assert!(json.is_ok_and(|json| json["schema"] == 1), "triage.json is no JSON");
    assert!(html::html(&report, None).ends_with("</html>\n"), "the page has an end");
    assert!(start.elapsed() < Duration::from_secs(10), "it took {:?}", start.elapsed());
}
