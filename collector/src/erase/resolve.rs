//! From rules to bytes of physical memory.

use super::parse::{Command, Erase, Expression, How, Loop, Rules, Section};
use super::place::{Access, Place, Shape, Ty, World};
use super::symbols::{self, Found};
use super::{ERASED, NULLIFIED, Patch, known, tidy, walk};
use crate::addr::VirtAddr;
use crate::engine::chain;
use crate::kernel::Kernel;
use crate::kernel::btf::Btf;
use crate::kernel::kallsyms::Kallsyms;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Bytes that one command may erase at one place.
pub(super) const MAX_HIT: u64 = 1 << 30;

/// Bytes that all commands together may erase, each time counted: a bound of the work.
const MAX_BYTES: u64 = 16 << 30;

/// Pieces of memory that are kept apart; 24 bytes each.
const MAX_PIECES: usize = 1 << 20;

/// A string that goes on after so many bytes is erased so far. makedumpfile stops at 1024.
const MAX_STRING: u64 = 64 << 10;

/// The record of what was erased has a line for each place until it is so long; then, each line once.
const MAX_RECORD: usize = 1 << 20;

/// What the rules come to.
#[derive(Clone, Debug, Default)]
pub struct Resolved {
    /// Physical memory to overwrite, ascending, apart from each other.
    pub patches: Vec<Patch>,
    /// A line for each place, as makedumpfile writes them: `erase init_task.comm size 16`.
    pub record: String,
    /// What could not be resolved, a sentence each, with the rule's line. Whatever is named here may still be in the dump.
    pub unresolved: Vec<String>,
}

/// Resolves rules. Everything that can be is, whatever fails.
pub fn resolve(rules: &Rules, kernel: &Kernel<'_>) -> Resolved {
    let translate = |at| kernel.translate(at);
    resolve_in(rules, &Access { memory: kernel, info: kernel.vmcore().info(), translate: &translate })
}

/// As [`resolve`], in any memory.
pub(super) fn resolve_in(rules: &Rules, kernel: &Access<'_>) -> Resolved {
    let mut run = Run::default();
    if let Err(why) = run.all(rules, kernel) {
        run.fail(0, &why);
    }
    let unresolved = run.failures();
    Resolved { patches: tidy(run.patches), record: run.record, unresolved }
}

/// What has been found so far.
#[derive(Default)]
struct Run {
    patches: Vec<Patch>,
    bytes: u64,
    record: String,
    recorded: HashSet<String>,
    steps: u64,
    /// By line: the first sentence, and how many more there were.
    failed: Vec<(u32, String, u64)>,
}

/// What names mean in one section.
struct Names<'w> {
    world: World<'w>,
    symbols: HashMap<String, Found>,
    /// `None` until somebody asks.
    percpu: Result<Vec<u64>, String>,
    module: Option<&'w str>,
}

/// The variables of the loops around a command.
type Scope = Vec<(String, Place)>;

/// Rules made of rules, one in the other: `TYPE.member` stands for loops.
const MAX_DEPTH: u32 = 4;

impl Run {
    fn all(&mut self, rules: &Rules, kernel: &Access<'_>) -> Result<(), String> {
        let (memory, info) = (kernel.memory, kernel.info);
        let table = Kallsyms::open(memory, info).map_err(|e| chain(&e))?;
        let btf = Btf::open(memory, info, &table).map_err(|e| chain(&e))?;
        for section in &rules.sections {
            let world = World { kernel, btf: &btf };
            if let Err(why) = self.section(section, world, &table) {
                self.fail(first_line(section), &why);
            }
        }
        Ok(())
    }

    fn section(&mut self, section: &Section, world: World<'_>, table: &Kallsyms<'_>) -> Result<(), String> {
        let mut roots = BTreeSet::new();
        collect(&section.commands, &mut roots);
        if section.module.is_none() {
            // What type rules lead to.
            roots.extend(["init_task", "init_mm", "init_cred", "modules", "super_blocks", "runqueues"]);
        }
        let roots: Vec<&str> = roots.into_iter().collect();
        let of_module;
        let mut world = world;
        let symbols = match &section.module {
            None => symbols::of_kernel(table, &roots).map_err(|e| chain(&e))?,
            Some(module) => {
                let list = table.find("modules").map_err(|e| chain(&e))?;
                let list = list
                    .ok_or("the kernel's symbol table has no `modules`: its modules are not to be found")?;
                match symbols::of_module(world.kernel, world.btf, list.at, module, &roots)? {
                    Some(symbols) => {
                        of_module = Btf::of_module(world.kernel.memory, world.btf, table, module)
                            .map_err(|e| chain(&e))?;
                        world.btf = of_module.as_ref().unwrap_or(world.btf);
                        symbols
                    }
                    None => {
                        log::info!("module {module} is not loaded: nothing of it to erase");
                        return Ok(());
                    }
                }
            }
        };
        let percpu = if symbols.values().any(|s| s.percpu) {
            symbols::percpu_offsets(world.kernel, table)
        } else {
            Ok(Vec::new())
        };
        let names = Names { world, symbols, percpu, module: section.module.as_deref() };
        self.commands(&names, &section.commands, &mut Scope::new(), None, 0);
        Ok(())
    }

    /// Runs commands. `instead` is the rule that these were made of: its line and its text are told of.
    fn commands(
        &mut self,
        names: &Names<'_>,
        commands: &[Command],
        scope: &mut Scope,
        instead: Option<&Erase>,
        depth: u32,
    ) {
        for command in commands {
            let (line, outcome) = match command {
                Command::Erase(erase) => (erase.line, self.erase(names, erase, scope, instead, depth)),
                Command::For(order) => (order.line, self.each(names, order, scope, instead, depth)),
            };
            if let Err(why) = outcome {
                self.fail(instead.map_or(line, |i| i.line), &why);
            }
        }
    }

    fn each(
        &mut self,
        names: &Names<'_>,
        order: &Loop,
        scope: &mut Scope,
        instead: Option<&Erase>,
        depth: u32,
    ) -> Result<(), String> {
        for list in names.places(&order.list, scope)? {
            let mut steps = self.steps;
            let outcome = walk::walk(&names.world, order, list, &mut steps, &mut |element, steps| {
                self.steps = *steps;
                scope.push((order.id.clone(), element));
                self.commands(names, &order.body, scope, instead, depth);
                scope.pop();
                *steps = self.steps;
            });
            self.steps = steps;
            outcome.map_err(|why| format!("for {} in {}: {why}", order.id, order.list.text))?;
        }
        Ok(())
    }

    fn erase(
        &mut self,
        names: &Names<'_>,
        erase: &Erase,
        scope: &mut Scope,
        instead: Option<&Erase>,
        depth: u32,
    ) -> Result<(), String> {
        if let Some(rules) = names.instances(erase, scope, depth)? {
            for section in &rules.sections {
                self.commands(names, &section.commands, scope, Some(instead.unwrap_or(erase)), depth + 1);
            }
            return Ok(());
        }
        let said = instead.map_or(erase, |i| i).what.text.as_str();
        let told = |why: String| format!("erase {said}: {why}");
        for place in names.places(&erase.what, scope).map_err(told)? {
            self.erase_at(names, erase, &place, said, scope).map_err(told)?;
        }
        Ok(())
    }

    fn erase_at(
        &mut self,
        names: &Names<'_>,
        erase: &Erase,
        place: &Place,
        said: &str,
        scope: &Scope,
    ) -> Result<(), String> {
        let world = &names.world;
        let shape = world.shape(&place.ty)?;
        if erase.how == How::Nullify {
            if !matches!(shape, Shape::Pointer(_)) {
                return Err(format!("it is {}, no pointer that could be nullified", world.shown(&place.ty)));
            }
            self.patch(world.kernel, place.at, 8, NULLIFIED)?;
            self.tell(&format!("erase {said} nullify"));
            return Ok(());
        }
        let asked = match &erase.how {
            How::Bytes(bytes) => Some(*bytes),
            How::BytesOf(of) => {
                let mut sizes = names.places(of, scope)?.into_iter();
                // A null pointer on the way to the size: there is nothing to be erased either.
                let Some(at) = sizes.next() else { return Ok(()) };
                let size = world.number(&at)?;
                match u64::try_from(size) {
                    Ok(size @ 0..=MAX_HIT) => Some(size),
                    _ => return Err(format!("size {} is {size}, which cannot be", of.text)),
                }
            }
            How::Whole | How::Nullify => None,
        };
        // What a pointer points at is meant, not the pointer.
        let (at, size) = match shape {
            Shape::Pointer(to) => {
                let at = world.pointer(place.at)?;
                if at == 0 {
                    return Ok(());
                }
                let size = match (asked, world.shape(&to)?) {
                    (Some(size), _) => size,
                    (None, Shape::Char) => string_len(world, at)?,
                    (None, Shape::Nothing) => 0,
                    (None, Shape::Number(1, _)) => {
                        return Err(format!(
                            "it is {}, bytes whose number is not known: add size NUMBER, or nullify",
                            world.shown(&place.ty)
                        ));
                    }
                    (None, _) => match world.size(&to)? {
                        0 => return Err(no_size(world, &to)),
                        size => size,
                    },
                };
                if asked.is_none() && size == 0 && world.shape(&to)? == Shape::Nothing {
                    return Err(no_size(world, &place.ty));
                }
                (at, size)
            }
            _ => match asked {
                Some(size) => (place.at, size),
                None => match world.size(&place.ty)? {
                    0 => return Err(no_size(world, &place.ty)),
                    size => (place.at, size),
                },
            },
        };
        if size > 0 {
            self.patch(world.kernel, at, size, ERASED)?;
        }
        self.tell(&format!("erase {said} size {size}"));
        Ok(())
    }

    /// Notes `len` bytes of virtual memory, all of them or none.
    fn patch(&mut self, kernel: &Access<'_>, at: u64, len: u64, fill: u8) -> Result<(), String> {
        let end = at.checked_add(len).filter(|_| len <= MAX_HIT);
        let end = end.ok_or_else(|| format!("{len:#x} bytes at {at:#x} cannot be"))?;
        self.bytes = self.bytes.saturating_add(len);
        if self.bytes > MAX_BYTES {
            return Err(format!("all rules together erase more than {MAX_BYTES:#x} bytes"));
        }
        // No page of any kernel is smaller.
        const PAGE: u64 = 4096;
        let first = self.patches.len();
        let mut now = at;
        while now < end {
            let next = (now | (PAGE - 1)).saturating_add(1).min(end);
            let start = match (kernel.translate)(VirtAddr::new(now)) {
                Ok(phys) => phys.get(),
                Err(e) => {
                    self.patches.truncate(first);
                    return Err(format!("{len} bytes at {at:#x} are not to be found: {}", chain(&e)));
                }
            };
            let piece = Patch { start, end: start.saturating_add(next.saturating_sub(now)), fill };
            match self.patches.get_mut(first..).and_then(|new| new.last_mut()) {
                Some(last) if last.end == piece.start => last.end = piece.end,
                _ => self.patches.push(piece),
            }
            now = next;
        }
        if self.patches.len() > MAX_PIECES {
            self.patches = tidy(std::mem::take(&mut self.patches));
            if self.patches.len() > MAX_PIECES {
                return Err(format!("the rules erase more than {MAX_PIECES} places"));
            }
        }
        Ok(())
    }

    fn tell(&mut self, line: &str) {
        if self.record.len() > MAX_RECORD && self.recorded.contains(line) {
            return;
        }
        if self.recorded.len() < 4096 && !self.recorded.contains(line) {
            self.recorded.insert(line.to_owned());
        }
        if self.record.len() <= MAX_RECORD * 2 {
            self.record.push_str(line);
            self.record.push('\n');
        }
    }

    fn fail(&mut self, line: u32, why: &str) {
        match self.failed.iter_mut().find(|(l, ..)| *l == line) {
            Some((_, _, more)) => *more = more.saturating_add(1),
            None => self.failed.push((line, why.to_owned(), 0)),
        }
    }

    fn failures(&self) -> Vec<String> {
        let sentence = |(line, why, more): &(u32, String, u64)| {
            let place = if *line == 0 { String::new() } else { format!("line {line}: ") };
            let more = if *more == 0 { String::new() } else { format!(" (and so {more} times more)") };
            format!("{place}{why}{more}")
        };
        self.failed.iter().map(sentence).collect()
    }
}

impl Names<'_> {
    /// Where an expression is: nowhere behind a null pointer, on each CPU what is per-CPU, else in one place.
    fn places(&self, expression: &Expression, scope: &Scope) -> Result<Vec<Place>, String> {
        let Expression { root, members, .. } = expression;
        let roots = match scope.iter().rev().find(|(id, _)| id == root) {
            Some((_, place)) if expression.ty.is_none() => vec![place.clone()],
            Some((_, place)) => vec![Place { ty: self.declared(expression, 0)?, ..place.clone() }],
            None => self.symbol(expression)?,
        };
        let mut places = Vec::new();
        for place in roots {
            places.extend(self.world.members(place, members)?);
        }
        Ok(places)
    }

    fn declared(&self, expression: &Expression, room: u64) -> Result<Ty, String> {
        match &expression.ty {
            Some(name) => self.world.named(name, room),
            None => Err(format!("{} has no type", expression.root)),
        }
    }

    fn symbol(&self, expression: &Expression) -> Result<Vec<Place>, String> {
        let name = expression.root.as_str();
        let of = self.module.map_or_else(|| "the kernel".to_owned(), |m| format!("module {m}"));
        let found = self.symbols.get(name).ok_or_else(|| {
            // Every kernel has it.
            let functions_only = self.module.is_none() && !self.symbols.contains_key("init_task");
            let why = if functions_only {
                ": its symbol table has no variables at all, it was built without CONFIG_KALLSYMS_ALL"
            } else {
                ""
            };
            format!("{of} has no symbol {name}{why}")
        })?;
        if found.times > 1 {
            return Err(format!(
                "{of} has {} symbols called {name}: it is not known which is meant",
                found.times
            ));
        }
        let ty = if expression.ty.is_some() {
            self.declared(expression, found.room)?
        } else {
            self.type_of(name, found)?.ok_or_else(|| {
                let rest = expression.text.strip_prefix(name).unwrap_or_default();
                format!(
                    "the kernel does not tell the type of {name} (BTF has no global variables): name it, as in \
                     {name}:STRUCT{rest}, {name}:char* for a string, or {name}:char[] for the {} bytes up to the next symbol",
                    found.room
                )
            })?
        };
        if !found.percpu {
            return Ok(vec![Place { at: found.at, ty }]);
        }
        let offsets = self.percpu.as_ref().map_err(Clone::clone)?;
        Ok(offsets.iter().map(|o| Place { at: found.at.wrapping_add(*o), ty: ty.clone() }).collect())
    }

    /// What BTF says of a variable, or the table of well-known ones where that is possible.
    fn type_of(&self, name: &str, found: &Found) -> Result<Option<Ty>, String> {
        if let Some(id) = self.world.btf.variable(name).map_err(|e| chain(&e))? {
            return Ok(Some(Ty::Known(id)));
        }
        let Some(text) = known::type_of(name).filter(|_| self.module.is_none()) else { return Ok(None) };
        let made_up = super::parse::expression(&format!("{name}:{text}"))?;
        let Ok(ty) = self.declared(&made_up, found.room) else { return Ok(None) };
        Ok((self.world.size(&ty)? <= found.room).then_some(ty))
    }

    /// The rules that `TYPE.member` stands for, when its root is no symbol but a type.
    fn instances(&self, erase: &Erase, scope: &Scope, depth: u32) -> Result<Option<Rules>, String> {
        let Erase { what, how, .. } = erase;
        let root = what.root.as_str();
        let is_root = self.symbols.contains_key(root) || scope.iter().any(|(id, _)| id == root);
        if is_root
            || what.ty.is_some()
            || depth >= MAX_DEPTH
            || symbols::composite(self.world.btf, root).is_err()
        {
            return Ok(None);
        }
        if what.members.is_empty() {
            return Err(format!("erase {root}: it is a type; name a member of it, as in {root}.MEMBER"));
        }
        let how = match how {
            How::Whole => String::new(),
            How::Nullify => "nullify".to_owned(),
            How::Bytes(bytes) => format!("size {bytes}"),
            How::BytesOf(_) => return Err(format!("erase {}: its size must be a number", what.text)),
        };
        let text = known::instances(root, &format!(".{}", what.members.join(".")), &how).ok_or_else(|| {
            format!(
                "erase {}: {root} is a type, and where all of that type are is known only of {}: write a loop over \
                 the list that they are on",
                what.text,
                known::listed()
            )
        })?;
        Rules::parse(&text).map(Some).map_err(|e| format!("erase {}: {e}", what.text))
    }
}

/// Symbols that commands start from.
fn collect<'r>(commands: &'r [Command], roots: &mut BTreeSet<&'r str>) {
    for command in commands {
        match command {
            Command::Erase(erase) => {
                roots.insert(&erase.what.root);
                if let How::BytesOf(of) = &erase.how {
                    roots.insert(&of.root);
                }
            }
            Command::For(order) => {
                roots.insert(&order.list.root);
                collect(&order.body, roots);
            }
        }
    }
}

fn first_line(section: &Section) -> u32 {
    section.commands.first().map_or(0, |command| match command {
        Command::Erase(erase) => erase.line,
        Command::For(order) => order.line,
    })
}

fn no_size(world: &World<'_>, ty: &Ty) -> String {
    format!("{} has no size of its own: add size NUMBER, or nullify if it is a pointer", world.shown(ty))
}

/// Bytes of the string at `at`, its NUL not among them.
fn string_len(world: &World<'_>, at: u64) -> Result<u64, String> {
    let mut len = 0_u64;
    let mut piece = [0; 256];
    while len < MAX_STRING {
        let now = at.wrapping_add(len);
        // Up to the end of a page at most: the next may not be there.
        let take = usize::try_from(4096 - now % 4096).unwrap_or(1).min(piece.len());
        let piece = piece.get_mut(..take).unwrap_or_default();
        world
            .kernel
            .read_virt(VirtAddr::new(now), piece)
            .map_err(|e| format!("its string: {}", chain(&e)))?;
        match piece.iter().position(|b| *b == 0) {
            Some(end) => return Ok(len.saturating_add(end as u64)),
            None => len = len.saturating_add(take as u64),
        }
    }
    Ok(MAX_STRING)
}
