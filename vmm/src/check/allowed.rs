//! What may be mapped and need not: where the tables have it, it must be right.

use super::alias::Alias;
use super::budget::{Budget, Cut};
use super::expectation::Expectation;
use super::marks::RootedTables;
use super::spans::Spans;
use crate::mmu::{Run, Runs};

/// What the tables have of an alias that is only allowed.
struct Piece {
    alias: Alias,
    /// It reaches the alias's own frames.
    is_right: bool,
}

impl Expectation {
    /// The same on these tables: of what is only allowed, each page that they map is expected, and no other.
    #[must_use]
    pub fn on(self, tables: &RootedTables<'_>, budget: &Budget) -> Self {
        let Self { mut placed, mut aliases, allowed, .. } = self;
        placed.retain(|alias| alias.is_owed);
        aliases.retain(|alias| alias.is_owed);
        let mut pieces = Vec::new();
        for alias in &allowed {
            let before = pieces.len();
            // What a cut leaves out is nobody's, and no walk that comes after it calls the tables right.
            let seen = look_for(alias, tables, budget, &mut pieces);
            placed.extend((pieces.len() > before).then_some(*alias));
            if seen.is_err() {
                break;
            }
        }
        placed.sort_by_key(|alias| (alias.region, alias.role));
        aliases.extend(without_overlaps(pieces));
        aliases.sort_by_key(|alias| alias.virt);
        aliases.dedup_by(|next, before| is_joined(before, next));
        Self { placed, aliases, allowed, ..self }
    }
}

/// Adds what the tables have of an alias.
fn look_for(alias: &Alias, tables: &RootedTables<'_>, budget: &Budget, pieces: &mut Vec<Piece>) -> Result<(), Cut> {
    let range = alias.range();
    let mut runs = Runs::new(&tables.memory, tables.root, range, tables.told, budget.entries());
    while let Some(run) = budget.next_run(&mut runs)? {
        budget.keep_run()?;
        pieces.push(piece(alias, &run));
    }
    Ok(())
}

fn piece(alias: &Alias, run: &Run) -> Piece {
    let alias = alias.within(&(run.va..=run.last()));
    Piece { alias, is_right: run.defect.is_none() && run.pa == alias.phys }
}

/// Of several that claim a page, one that has its frame gets it.
fn without_overlaps(mut pieces: Vec<Piece>) -> Vec<Alias> {
    pieces.sort_by_key(|piece| !piece.is_right);
    let mut taken = Spans::default();
    let mut free = Vec::new();
    for Piece { alias, .. } in pieces {
        free.extend(alias.free_of(&taken));
        taken.take(&alias.range());
    }
    free
}

/// Joins what goes on in both addresses and is of the same region.
fn is_joined(before: &mut Alias, next: &Alias) -> bool {
    let Alias { virt, phys, pages, .. } = *before;
    let goes_on = before.last().checked_add(1) == Some(next.virt) && before.target(next.virt) == next.phys;
    let is_alike = !next.is_owed && Alias { virt, phys, pages, ..*next } == *before;
    if goes_on && is_alike {
        before.pages = before.pages.saturating_add(next.pages);
    }
    goes_on && is_alike
}
