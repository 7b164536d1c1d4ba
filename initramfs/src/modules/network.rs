//! What a network path needs: the drivers of its NICs, and the modules of the links made upon them.

use super::resolve::Resolver;
use super::stack::{self, Step};
use crate::Error;
use crate::root::Root;

/// What the links to a target are.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct NetworkRequest<'a> {
    /// Names in the running system of the NICs: `eth0`.
    pub nics: &'a [String],
    /// Kinds of the links made upon them, the kernel's words: `bond`, `vlan`, `bridge`, `macvlan`.
    pub kinds: &'a [String],
    /// Whether any address is IPv6.
    pub ipv6: bool,
}

/// The devices between the machine's root and a NIC, outermost first.
///
/// A virtual function is made by the driver of its physical function, which therefore comes first. A PHY has a driver of its own
/// on many boards; without it some NICs have no carrier.
pub(super) fn walk(root: &Root, nic: &str) -> Result<Vec<Step>, Error> {
    super::check_name("network interface", nic)?;
    let class = format!("/sys/class/net/{nic}");
    let device = root.canonical(format!("{class}/device"))?;
    let device = device.ok_or_else(|| Error::NoNic { name: nic.to_owned(), path: root.path(&class) })?;
    let physical = root.canonical(device.join("physfn"))?;
    let phy = root.canonical(format!("{class}/phydev"))?;
    stack::climb_all(root, physical.iter().chain([&device]), phy.iter())
}

/// The modules of the links made upon NICs, and of IPv6.
pub(super) fn add_kinds(resolver: &mut Resolver<'_>, request: &NetworkRequest<'_>) -> Result<(), Error> {
    for kind in request.kinds {
        super::check_name("kind of link", kind)?;
        let why = format!("links of kind {kind}");
        if !resolver.alias(&format!("rtnl-link-{kind}"), true, &why)? {
            // Kernels without lists of what is built in; the kind is often the module's name.
            let module = match kind.as_str() {
                "vlan" => "8021q",
                "bond" => "bonding",
                other => other,
            };
            resolver.module(module, true, &why)?;
        }
    }
    // AF_INET6 is 10. Where it is neither a module nor known to be built in, addresses could not be there either.
    if request.ipv6 && !resolver.alias("net-pf-10", false, "IPv6")? {
        resolver.note("taken to be built in: ipv6".to_owned());
    }
    Ok(())
}
