//! Which file names what of which other file: the sources of all crates, read with `syn`. Code that only tests have is left out; code
//! of every feature is seen.

use proc_macro2::{TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, Item, Lit, Meta, UseTree};

/// `vidgen::cli::plan`, as its parts.
pub type Module = Vec<String>;

/// One file of a crate.
pub struct File {
    /// Below the repository.
    pub path: PathBuf,
    pub text: String,
    pub module: Module,
}

/// A path that a file has written, and where it leads.
pub struct Use {
    /// The file's place in [`Graph::files`].
    pub from: usize,
    pub written: String,
    /// The module that is named, though it may only pass on what another one defines.
    pub named: Module,
    /// The file that defines it.
    pub to: usize,
}

pub struct Graph {
    pub files: Vec<File>,
    /// Between different files.
    pub uses: Vec<Use>,
}

impl Graph {
    /// Of the crates whose roots are given by name and path below the repository.
    pub fn read(root: &Path, crates: &[(String, PathBuf)]) -> Self {
        let mut reader = Reader { root: root.to_owned(), ..Reader::default() };
        for (name, path) in crates {
            reader.file(path.clone(), vec![name.clone()], path.parent().unwrap().to_owned());
        }
        reader.graph()
    }

    /// Sets of files that lead to each other, by their paths. What a module names of its own descendants is no import: it
    /// is made of them.
    pub fn rings(&self) -> BTreeSet<BTreeSet<String>> {
        let mut next = vec![BTreeSet::new(); self.files.len()];
        for Use { from, to, .. } in &self.uses {
            if !self.files[*to].module.starts_with(&self.files[*from].module) {
                next[*from].insert(*to);
            }
        }
        let reached: Vec<BTreeSet<usize>> = (0..next.len())
            .map(|from| {
                let (mut reached, mut open) = (BTreeSet::new(), vec![from]);
                while let Some(at) = open.pop() {
                    open.extend(next[at].iter().filter(|to| reached.insert(**to)));
                }
                reached
            })
            .collect();
        let ring = |from: usize| {
            let both = reached[from].iter().filter(|to| reached[**to].contains(&from));
            both.map(|to| self.files[*to].path.display().to_string()).collect::<BTreeSet<_>>()
        };
        (0..next.len()).map(ring).filter(|ring| !ring.is_empty()).collect()
    }
}

/// A module as it is read: what it calls by which name, and what it writes.
#[derive(Default)]
struct Read {
    file: usize,
    imports: BTreeMap<String, Vec<String>>,
    written: Vec<Vec<String>>,
}

#[derive(Default)]
struct Reader {
    root: PathBuf,
    files: Vec<File>,
    modules: BTreeMap<Module, Read>,
    /// The module that is being read, and the folder of its children; paths are below the root.
    module: Module,
    folder: PathBuf,
    children: Vec<(PathBuf, Module, PathBuf)>,
}

impl Reader {
    fn file(&mut self, path: PathBuf, module: Module, folder: PathBuf) {
        let text = fs::read_to_string(self.root.join(&path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.modules.insert(module.clone(), Read { file: self.files.len(), ..Read::default() });
        self.files.push(File { path, text, module: module.clone() });
        (self.module, self.folder) = (module, folder);
        self.visit_file(&syntax);
        for (path, module, folder) in std::mem::take(&mut self.children) {
            self.file(path, module, folder);
        }
    }

    fn read(&mut self) -> &mut Read {
        self.modules.get_mut(&self.module).unwrap()
    }

    fn write(&mut self, path: Vec<String>) {
        self.read().written.push(path);
    }

    fn tree(&mut self, tree: &UseTree, mut before: Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.tree(&path.tree, before);
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree, before.clone())),
            UseTree::Glob(_) => self.write(before),
            UseTree::Name(name) => self.import(before, name.ident.to_string(), name.ident.to_string()),
            UseTree::Rename(name) => self.import(before, name.ident.to_string(), name.rename.to_string()),
        }
    }

    fn import(&mut self, mut path: Vec<String>, name: String, mut rename: String) {
        if name == "self" {
            rename = if rename == "self" { path.last().unwrap().clone() } else { rename };
        } else {
            path.push(name);
        }
        self.write(path.clone());
        self.read().imports.insert(rename, path);
    }

    /// Paths inside a macro, whatever its syntax.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Ident(ident) => {
                    if colons != 2 && !path.is_empty() {
                        self.write(std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                other => {
                    if !path.is_empty() {
                        self.write(std::mem::take(&mut path));
                    }
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        if !path.is_empty() {
            self.write(path);
        }
    }

    /// The module that a path leads to; none where it leaves these crates. With `through` it goes on to where the thing is defined.
    fn lead(&self, module: &Module, path: &[String], through: bool, depth: usize) -> Option<Module> {
        let (first, mut rest) = path.split_first()?;
        let krate = vec![module[0].clone()];
        let mut at = match first.as_str() {
            "crate" => krate,
            "self" => module.clone(),
            "super" => {
                let up = path.iter().take_while(|part| *part == "super").count();
                rest = &path[up..];
                module[..module.len().checked_sub(up)?].to_vec()
            }
            name if self.modules.contains_key(&vec![name.to_owned()]) => vec![name.to_owned()],
            name => {
                let child = [module.as_slice(), &[name.to_owned()]].concat();
                if self.modules.contains_key(&child) {
                    child
                } else {
                    let import = self.modules[module].imports.get(name).filter(|_| depth < 9)?;
                    let known = import.len() > 1 || import[0] != *name;
                    let at = known.then(|| self.lead(module, import, through, depth + 1)).flatten()?;
                    // a type's own names lie with it
                    if at.last() == import.last() { at } else { return Some(at) }
                }
            }
        };
        for (index, part) in rest.iter().enumerate() {
            let child = [at.as_slice(), std::slice::from_ref(part)].concat();
            if self.modules.contains_key(&child) {
                at = child;
                continue;
            }
            if through || at.len() == 1 {
                let import = self.modules.get(&at)?.imports.get(part).filter(|_| depth < 9);
                if let Some(import) = import {
                    let on = [import.as_slice(), &rest[index + 1..]].concat();
                    return self.lead(&at, &on, through, depth + 1);
                }
            }
            break;
        }
        Some(at)
    }

    fn graph(self) -> Graph {
        let mut uses = Vec::new();
        for (module, read) in &self.modules {
            for path in &read.written {
                let lead = |through| self.lead(module, path, through, 0);
                let (Some(named), Some(defined)) = (lead(false), lead(true)) else { continue };
                let to = self.modules[&defined].file;
                if to != read.file {
                    uses.push(Use { from: read.file, written: path.join("::"), named, to });
                }
            }
        }
        Graph { files: self.files, uses }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        if !attributes(item).iter().any(tests_only) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        let module = [self.module.as_slice(), std::slice::from_ref(&name)].concat();
        let folder = self.folder.join(&name);
        let file = self.read().file;
        if let Some((_, items)) = &item.content {
            self.modules.insert(module.clone(), Read { file, ..Read::default() });
            let outer = (std::mem::replace(&mut self.module, module), std::mem::replace(&mut self.folder, folder));
            items.iter().for_each(|item| self.visit_item(item));
            (self.module, self.folder) = outer;
            return;
        }
        let given = item.attrs.iter().find_map(given_path).map(|path| self.files[file].path.with_file_name(path));
        let plain = self.folder.join(format!("{name}.rs"));
        let path = given.unwrap_or(if self.root.join(&plain).is_file() { plain } else { folder.join("mod.rs") });
        self.children.push((path, module, folder));
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&item.tree, Vec::new());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.write(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// `#[cfg(test)]` and `#[cfg(all(test, ..))]`.
fn tests_only(attribute: &Attribute) -> bool {
    let Meta::List(list) = &attribute.meta else { return false };
    let tokens = list.tokens.to_string().replace(' ', "");
    list.path.is_ident("cfg") && (tokens == "test" || tokens.starts_with("all(test,"))
}

/// Of `#[path = ".."]`.
fn given_path(attribute: &Attribute) -> Option<String> {
    match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(path) => Some(path.value()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}
