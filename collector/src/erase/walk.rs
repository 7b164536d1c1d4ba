//! Lists, one element after the other. Every walk ends: at its head, at a null pointer, or with an error.

use super::parse::{Loop, Over};
use super::place::{Place, Shape, Ty, World};
use super::symbols::composite;

/// Elements of all loops of a run together; no kernel has more tasks.
pub(super) const MAX_STEPS: u64 = 4 << 20;

/// Watches for a list that runs in a circle without coming back to its head (Brent's algorithm): the position is compared
/// with one that is remembered for longer and longer.
#[derive(Default)]
struct Circle {
    remembered: u64,
    steps: u64,
    limit: u64,
}

impl Circle {
    /// An error when `at` was visited before.
    fn visit(&mut self, at: u64) -> Result<(), String> {
        if self.steps > 0 && at == self.remembered {
            return Err(format!("the list runs in a circle at {at:#x} and never comes back to its start"));
        }
        if self.steps >= self.limit {
            self.limit = self.limit.saturating_mul(2).max(1);
            self.remembered = at;
            self.steps = 0;
        }
        self.steps = self.steps.saturating_add(1);
        Ok(())
    }
}

/// Calls `visit` with each element of the loop's list, which `list` is.
pub(super) fn walk(
    world: &World<'_>,
    order: &Loop,
    list: Place,
    steps: &mut u64,
    visit: &mut dyn FnMut(Place, &mut u64),
) -> Result<(), String> {
    let mut step = |steps: &mut u64, place: Place| {
        *steps = steps.saturating_add(1);
        if *steps > MAX_STEPS {
            return Err(format!("the loops have more than {MAX_STEPS} elements"));
        }
        visit(place, steps);
        Ok(())
    };
    match &order.over {
        Over::Array => {
            let Shape::Array(of, length) = world.shape(&list.ty)? else {
                return Err(format!(
                    "{} is {}, no array: a list wants via or within",
                    order.list.text,
                    world.shown(&list.ty)
                ));
            };
            let size = world.size(&of)?;
            for index in 0..length {
                let at = size.checked_mul(index).and_then(|skip| list.at.checked_add(skip));
                let at = at.ok_or_else(|| "the array reaches past the end of memory".to_owned())?;
                step(steps, Place { at, ty: of.clone() })?;
            }
            Ok(())
        }
        Over::Via(member) => {
            let mut place = list;
            if let Shape::Pointer(to) = world.shape(&place.ty)? {
                match world.pointer(place.at)? {
                    0 => return Ok(()),
                    at => place = Place { at, ty: to },
                }
            }
            let Shape::Composite(id) = world.shape(&place.ty)? else {
                return Err(format!("{} is {}, no structure", order.list.text, world.shown(&place.ty)));
            };
            let (offset, ty) = world.offset(id, member)?;
            // A list_head is what most of the kernel's lists are linked with: the next structure is around the next one.
            let around = if world.is_list_head(&ty)? { offset } else { 0 };
            if around == 0 && !matches!(world.shape(&ty)?, Shape::Pointer(_)) && !world.is_list_head(&ty)? {
                return Err(format!("{} is {}, no pointer to the next", member.join("."), world.shown(&ty)));
            }
            let first = place.at;
            let mut circle = Circle::default();
            loop {
                circle.visit(place.at)?;
                let at = place.at;
                step(steps, place.clone())?;
                let next = world.pointer(at.wrapping_add(offset)).map_err(|e| lost(at, &e))?;
                if next == 0 || next.wrapping_sub(around) == first {
                    return Ok(());
                }
                place.at = next.wrapping_sub(around);
            }
        }
        Over::Within(name, member) => {
            let id = composite(world.btf, name)?;
            let (offset, ty) = world.offset(id, member)?;
            if !world.is_list_head(&ty)? {
                return Err(format!(
                    "{name}:{} is {}, no struct list_head",
                    member.join("."),
                    world.shown(&ty)
                ));
            }
            let head = head(world, order, &list)?;
            let mut node = world.pointer(head).map_err(|e| lost(head, &e))?;
            let mut circle = Circle::default();
            while node != head {
                if node == 0 {
                    return Err("the list ends in a null pointer instead of at its head".to_owned());
                }
                circle.visit(node)?;
                let next = world.pointer(node).map_err(|e| lost(node, &e))?;
                step(steps, Place { at: node.wrapping_sub(offset), ty: Ty::Known(id) })?;
                node = next;
            }
            Ok(())
        }
    }
}

/// The `list_head` that a list starts and ends with. `X.next` stands for `X`, as the manual writes it; another pointer for what it
/// points at.
fn head(world: &World<'_>, order: &Loop, list: &Place) -> Result<u64, String> {
    if world.is_list_head(&list.ty)? {
        return Ok(list.at);
    }
    if let Shape::Pointer(to) = world.shape(&list.ty)?
        && world.is_list_head(&to)?
    {
        return match order.list.members.last().map(String::as_str) {
            // `next` is the first member.
            Some("next") => Ok(list.at),
            Some("prev") => Ok(list.at.wrapping_sub(8)),
            _ => match world.pointer(list.at)? {
                0 => Err(format!("{} is a null pointer", order.list.text)),
                at => Ok(at),
            },
        };
    }
    Err(format!("{} is {}, no struct list_head", order.list.text, world.shown(&list.ty)))
}

fn lost(at: u64, why: &str) -> String {
    format!("the list is broken at {at:#x}: {why}")
}
