//! Types of modules, which go on where the kernel's end.
//!
//! The kernel keeps what it was given for each module on the list `btf_modules`: since Linux commit 36e68442d1af ("bpf:
//! Load and verify kernel module BTFs") (in v5.11), with CONFIG_DEBUG_INFO_BTF_MODULES. What lies there is already put on
//! the running kernel's types, also for modules that were built for another.

use super::{Among, Btf, BtfError, TypeId};
use crate::addr::VirtAddr;
use crate::kernel::blob::Blob;
use crate::kernel::kallsyms::Kallsyms;
use crate::kernel::printk::Memory;

/// Modules that are looked through.
const MAX_MODULES: u32 = 1 << 16;

impl<'k> Btf<'k> {
    /// The types of a module, together with those of the kernel, `base`; `None` where the kernel has none of it.
    pub fn of_module(
        memory: &'k dyn Memory,
        base: &'k Self,
        symbols: &Kallsyms<'_>,
        module: &str,
    ) -> Result<Option<Self>, BtfError> {
        let Some(list) = symbols.find("btf_modules")? else { return Ok(None) };
        let (Some(entry), Some(btf)) =
            (base.find(Among::Composites, "btf_module")?, base.find(Among::Composites, "btf")?)
        else {
            return Ok(None);
        };
        let offset = |of: TypeId, member: &str| {
            let field = base.member(of, member)?;
            field.offset().ok_or_else(|| BtfError::NoSuch(format!("{member} is a bit-field")))
        };
        let pointer = |at: u64| Blob::new(memory, VirtAddr::new(at), 8).u64(0);
        let number = |at: u64| Blob::new(memory, VirtAddr::new(at), 4).u32(0);
        let (node_at, btf_at, name_at) =
            (offset(entry, "list")?, offset(entry, "btf")?, offset(btf, "name")?);
        let mut node = pointer(list.at.get())?;
        for _ in 0..MAX_MODULES {
            if node == list.at.get() {
                return Ok(None);
            }
            let found = pointer(node.wrapping_sub(node_at).wrapping_add(btf_at))?;
            let name = Blob::new(memory, VirtAddr::new(found.wrapping_add(name_at)), 64).string(0, 64)?;
            if name == module.as_bytes() {
                let at = |member: &str| Ok::<_, BtfError>(found.wrapping_add(offset(btf, member)?));
                let (data, len) = (pointer(at("data")?)?, number(at("data_size")?)?);
                let (first, names_from) = (number(at("start_id")?)?, number(at("start_str_off")?)?);
                let own =
                    Self::on(memory, VirtAddr::new(data), u64::from(len), Some(base), &mut |_, _, _| {})?;
                if (first, names_from) != (own.first, own.names_from) {
                    return Err(BtfError::Senseless(format!(
                        "those of module {module} start with type {first} and string {names_from:#x}, the kernel's end \
                         with {} and {:#x}",
                        own.first, own.names_from
                    )));
                }
                return Ok(Some(own));
            }
            node = pointer(node)?;
        }
        Err(BtfError::Senseless("the list of modules' types does not end".to_owned()))
    }
}
