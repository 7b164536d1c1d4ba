//! VMCOREINFO: the text note in which a kernel says where its things are.

use crate::addr::VirtAddr;
use std::collections::BTreeMap;

/// VMCOREINFO: `KEY=value` and `KIND(name)=value` lines.
#[derive(Clone, Debug, Default)]
pub struct VmcoreInfo {
    values: BTreeMap<String, String>,
}

impl VmcoreInfo {
    /// Parses the note's text; lines that are no `key=value` are passed over.
    pub fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let pairs = text.lines().filter_map(|l| l.trim_end_matches('\0').split_once('='));
        Self { values: pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect() }
    }
    /// A line's value by its whole key: `OSRELEASE`, `SIZE(page)`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }
    /// `SYMBOL(name)`, hexadecimal.
    pub fn symbol(&self, name: &str) -> Option<VirtAddr> {
        u64::from_str_radix(self.get(&format!("SYMBOL({name})"))?, 16).ok().map(VirtAddr::new)
    }
    /// `SIZE(name)`, decimal bytes.
    pub fn size(&self, name: &str) -> Option<u64> {
        self.get(&format!("SIZE({name})"))?.parse().ok()
    }
    /// `OFFSET(struct.member)`, decimal bytes.
    pub fn offset(&self, name: &str) -> Option<u64> {
        self.get(&format!("OFFSET({name})"))?.parse().ok()
    }
    /// `LENGTH(name)`, elements.
    pub fn length(&self, name: &str) -> Option<u64> {
        self.get(&format!("LENGTH({name})"))?.parse().ok()
    }
    /// `NUMBER(name)`: decimal, possibly negative.
    pub fn number(&self, name: &str) -> Option<i64> {
        let text = self.get(&format!("NUMBER({name})"))?;
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok().map(u64::cast_signed),
            None => text.parse().ok(),
        }
    }
}
