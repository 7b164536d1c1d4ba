//! The report as one page for a browser: nothing of it is fetched from anywhere.
//!
//! The text, folded by its sections; where memory went, and what of it a dump has, as pictures; the log with a search.

use super::log::Log;
use super::memory::Memory;
use super::pages::Class;
use super::{Report, text};
use std::fmt::Write;

const STYLE: &str = "\
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:72rem;padding:1rem;color:#1c2733;background:#fff}
h1{font-size:1.35rem;border-left:.4rem solid #b3261e;padding-left:.7rem}h2{font-size:1.1rem;margin:1.2rem 0 .5rem}
pre{font:12.5px/1.4 ui-monospace,monospace;background:#f4f6f8;padding:.7rem;overflow-x:auto;margin:.3rem 0}
details{margin:.4rem 0}summary{cursor:pointer;font-weight:600}
.map{display:flex;height:3.2rem;border-radius:.3rem;overflow:hidden;background:#dde3e9}
.map div{min-width:1px}.key span{display:inline-block;margin-right:1.1rem;white-space:nowrap}
.key i{display:inline-block;width:.8rem;height:.8rem;margin-right:.35rem;vertical-align:-.05rem}
.map .out{opacity:.3}
.bad{color:#b3261e;font-weight:600}.near{color:#8a5a00;font-weight:600}
input{font:inherit;width:24rem;max-width:100%;padding:.25rem .5rem}mark{background:#ffe08a}
@media(prefers-color-scheme:dark){body{background:#14191f;color:#dfe6ee}pre{background:#1d252e}.map{background:#2a343f}}";

/// Shows the lines of the log that have what is typed, and counts them, without the mark of what nobody had read.
const SCRIPT: &str = "\
const log=document.getElementById('log'),all=log.textContent.split('\\n'),box=document.getElementById('find'),
count=document.getElementById('count');
function find(){const word=box.value.toLowerCase();log.textContent='';let n=0;const piece=document.createDocumentFragment();
for(const line of all){const at=word?line.toLowerCase().indexOf(word):-1;if(word&&at<0)continue;if(!line.startsWith('---- '))n++;
if(at<0){piece.append(line+'\\n');continue}const m=document.createElement('mark');m.textContent=line.slice(at,at+word.length);
piece.append(line.slice(0,at),m,line.slice(at+word.length)+'\\n')}log.append(piece);count.textContent=n+' lines'}
box.addEventListener('input',find);if(location.hash.startsWith('#find=')){box.value=decodeURIComponent(location.hash.slice(6))}find();";

/// A text within the page.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
    out
}

/// Memory in parts that do not overlap: name, colour, KiB. What nobody accounts for is the last.
fn parts(memory: &Memory) -> Vec<(&'static str, &'static str, u64)> {
    let huge =
        memory.huge_pages.iter().map(|h| h.total.saturating_mul(h.size_kib)).fold(0, u64::saturating_add);
    let cached = memory.cached.unwrap_or(0).saturating_sub(memory.shared.unwrap_or(0));
    let known = [
        ("free", "#9fb3c8", memory.free),
        ("programs", "#3d7dd9", memory.anonymous),
        ("page cache", "#4caf7d", Some(cached)),
        ("buffers", "#8bc34a", memory.buffers),
        ("shared, tmpfs", "#26a69a", memory.shared),
        ("slab, reclaimable", "#f2b134", memory.slab_reclaimable),
        ("slab, not reclaimable", "#e06c3a", memory.slab_unreclaimable),
        ("page tables", "#a25ddc", memory.page_tables),
        ("kernel stacks", "#d6569b", memory.kernel_stacks),
        ("vmalloc", "#7e6bd6", memory.vmalloc),
        ("huge pages", "#5d4037", Some(huge)),
    ];
    let mut parts: Vec<_> = known
        .into_iter()
        .filter_map(|(name, colour, kib)| Some((name, colour, kib.filter(|k| *k > 0)?)))
        .collect();
    let sum = parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.2));
    let rest = memory.total.unwrap_or(0).saturating_sub(sum);
    if rest > 0 {
        parts.push(("the kernel's other", "#546472", rest));
    }
    parts
}

/// What a dump has of a machine's memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// Bytes that it has, and that the machine had.
    pub bytes: (u64, u64),
    /// Bytes of a page.
    pub page: u64,
    /// Its pages by class; empty where mem_map is not to be found.
    pub classes: Vec<Class>,
}

/// The whole page.
pub fn html(report: &Report, held: Option<&Held>) -> String {
    let mut page = String::new();
    let verdict = &report.verdict;
    let host = &report.kernel.nodename;
    // Writing to a String cannot fail.
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{} {}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\
         <h1 id=\"verdict\">{}</h1><ul>",
        escaped(host),
        escaped(&report.kernel.release),
        escaped(&verdict.line)
    );
    for line in &verdict.evidence {
        let _ = write!(page, "<li>{}</li>", escaped(line));
    }
    let _ = write!(page, "</ul><p>signature <code>{}</code></p>", escaped(&verdict.signature));
    map(&mut page, &report.memory);
    if let Some(held) = held {
        pages(&mut page, held);
    }
    let shown = text::text(report);
    for section in shown.split("\n== ").skip(1) {
        let (title, body) = section.split_once('\n').unwrap_or((section, ""));
        let title = title.trim_end_matches('=').trim();
        if title == "log" {
            continue;
        }
        let open = if matches!(
            title,
            "machine" | "the task that died" | "the task that was hung" | "hardware errors"
        ) {
            " open"
        } else {
            ""
        };
        let _ = write!(
            page,
            "<details{open}><summary>{}</summary><pre>{}</pre></details>",
            escaped(title),
            escaped(body)
        );
    }
    let _ = writeln!(
        page,
        "<h2>Log</h2><p><input id=\"find\" placeholder=\"search the log\" aria-label=\"search the log\"> \
         <span id=\"count\"></span></p><pre id=\"log\">{}</pre><script>{SCRIPT}</script></body></html>",
        escaped(&log(&report.log))
    );
    page
}

/// The log's lines, with the mark of what no program had read.
fn log(log: &Log) -> String {
    let unread = log.unread_from.and_then(|index| usize::try_from(index).ok());
    let lines = log.lines.iter().enumerate().flat_map(|(index, line)| {
        let mark = (unread == Some(index)).then_some(text::UNREAD);
        mark.into_iter().chain([line.as_str()])
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A size for reading.
fn size(kib: u64) -> String {
    if kib < 1 << 10 { format!("{kib} KiB") } else { format!("{} MiB", kib >> 10) }
}

/// The picture of memory.
fn map(page: &mut String, memory: &Memory) {
    let Some(total @ 1..) = memory.total else { return };
    let _ = write!(page, "<h2>Memory: {} MiB</h2><div class=\"map\" id=\"map\">", total >> 10);
    let parts = parts(memory);
    for (name, colour, kib) in &parts {
        let _ = write!(
            page,
            "<div style=\"flex:{kib};background:{colour}\" title=\"{name}: {}\"></div>",
            size(*kib)
        );
    }
    page.push_str("</div><p class=\"key\">");
    for (name, colour, kib) in &parts {
        let _ = write!(page, "<span><i style=\"background:{colour}\"></i>{name} {}</span>", size(*kib));
    }
    page.push_str("</p>");
    for remark in &memory.remarks {
        let class = if remark.mark == super::memory::Mark::Breach { "bad" } else { "near" };
        let _ = write!(page, "<p class=\"{class}\">{} {}</p>", remark.mark, escaped(&remark.text));
    }
}

/// Colours of the classes, in their order.
const COLOURS: [&str; 7] = ["#546472", "#3d7dd9", "#4caf7d", "#26a69a", "#9fb3c8", "#b3261e", "#cfd8dc"];

/// The picture of what the dump has: of each class that part in its colour, the rest pale.
fn pages(page: &mut String, held: &Held) {
    let (kept, all) = held.bytes;
    let percent = (u128::from(kept) * 100).checked_div(u128::from(all)).unwrap_or(0);
    let _ =
        write!(page, "<h2>The dump has {} of {} MiB: {percent} % of all pages</h2>", kept >> 20, all >> 20);
    if held.classes.is_empty() {
        return;
    }
    let kib = |pages: u64| pages.saturating_mul(held.page) / 1024;
    let mut key = String::new();
    page.push_str("<div class=\"map\" id=\"kept\">");
    for (class, colour) in held.classes.iter().zip(COLOURS.iter().cycle()) {
        let out = class.all.saturating_sub(class.kept);
        for (pages, style, what) in [(class.kept, "", "in the dump"), (out, " class=\"out\"", "left out")] {
            if pages > 0 {
                let size = size(kib(pages));
                let _ = write!(
                    page,
                    "<div{style} style=\"flex:{pages};background:{colour}\" title=\"{}, {what}: {size}\"></div>",
                    class.name
                );
            }
        }
        let part = match class.kept {
            0 => "none kept".to_owned(),
            kept if kept == class.all => "all kept".to_owned(),
            kept => format!("{} kept", size(kib(kept))),
        };
        let _ = write!(
            key,
            "<span><i style=\"background:{colour}\"></i>{} {}, {part}</span>",
            class.name,
            size(kib(class.all))
        );
    }
    let _ = write!(page, "</div><p class=\"key\">{key}</p>");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_make_up_the_whole() {
        let memory = Memory {
            total: Some(1000),
            free: Some(300),
            anonymous: Some(200),
            cached: Some(250),
            shared: Some(50),
            ..Memory::default()
        };
        let parts = parts(&memory);
        assert_eq!(parts.iter().map(|p| p.2).sum::<u64>(), 1000);
        assert_eq!(parts.last().map(|p| (p.0, p.2)), Some(("the kernel's other", 250)));
        let mut page = String::new();
        map(&mut page, &memory);
        assert!(page.contains("flex:300") && !page.contains("NaN"), "{page}");
        let classes = vec![
            Class { name: "the kernel's", all: 1024, kept: 512 },
            Class { name: "free", all: 2048, kept: 0 },
        ];
        let mut page = String::new();
        pages(&mut page, &Held { bytes: (2 << 20, 12 << 20), page: 4096, classes });
        for wanted in [
            "2 of 12 MiB: 16 %",
            "kernel's 4 MiB, 2 MiB kept",
            "free 8 MiB, none kept",
            "class=\"out\" style=\"flex:2048;",
            "title=\"the kernel's, left out: 2 MiB\"",
        ] {
            assert!(page.contains(wanted), "{wanted} in {page}");
        }
        assert_eq!((size(1023), size(4096)), ("1023 KiB".to_owned(), "4 MiB".to_owned()));
        let lines = ["[ 1.0] a", "[ 2.0] b"].map(str::to_owned).to_vec();
        let of = |unread_from| {
            let mut whole = Log::default();
            (whole.lines, whole.unread_from) = (lines.clone(), unread_from);
            log(&whole)
        };
        assert_eq!(of(None), "[ 1.0] a\n[ 2.0] b");
        assert_eq!(of(Some(1)), format!("[ 1.0] a\n{}\n[ 2.0] b", text::UNREAD));
        assert_eq!(escaped("<a&\"b\">"), "&lt;a&amp;&quot;b&quot;&gt;");
    }
}
