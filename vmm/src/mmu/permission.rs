//! Accesses, rights, and whether one grants the other (SDM 4.6).

use std::fmt;

use super::entry::{Level, bits};
use super::fault::ErrorCode;
use super::paging::Paging;
use super::rules::Rule;

/// One access, as far as paging cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// Read, write or fetch.
    pub kind: Kind,
    /// On whose behalf.
    pub privilege: Privilege,
    /// EFLAGS.AC at the access.
    pub ac: bool,
    /// A stack access: non-canonical, it is #SS instead of #GP.
    pub stack: bool,
}

/// What the access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A data read.
    Read,
    /// A data write.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// On whose behalf the access is made (SDM 4.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Privilege {
    /// CPL below 3.
    Supervisor,
    /// CPL 3.
    User,
    /// The processor's own, to descriptor tables and the TSS: a supervisor access at any CPL.
    Implicit,
}

/// What the levels passed so far grant together: W and U are the AND of all, NX the OR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rights {
    /// Every level has W.
    pub writable: bool,
    /// Every level has U: a *user-mode address* in the SDM's words.
    pub user: bool,
    /// No level has NX, or EFER.NXE = 0.
    pub executable: bool,
    /// The leaf's protection key; 0 while CR4.PKE = 0, where those bits are ignored.
    pub pkey: u8,
}

impl Access {
    /// A supervisor read.
    pub const fn read() -> Self {
        Self::new(Kind::Read)
    }

    /// A supervisor write.
    pub const fn write() -> Self {
        Self::new(Kind::Write)
    }

    /// A supervisor fetch.
    pub const fn fetch() -> Self {
        Self::new(Kind::Fetch)
    }

    /// A supervisor access of this kind, with AC clear and not to the stack.
    pub const fn new(kind: Kind) -> Self {
        Self { kind, privilege: Privilege::Supervisor, ac: false, stack: false }
    }

    /// The same, made in user mode.
    #[must_use]
    pub const fn user(self) -> Self {
        Self { privilege: Privilege::User, ..self }
    }

    /// The same, made by the processor on its own account.
    #[must_use]
    pub const fn implicit(self) -> Self {
        Self { privilege: Privilege::Implicit, ..self }
    }

    /// The same with EFLAGS.AC set.
    #[must_use]
    pub const fn with_ac(self) -> Self {
        Self { ac: true, ..self }
    }

    /// The same, to the stack.
    #[must_use]
    pub const fn on_stack(self) -> Self {
        Self { stack: true, ..self }
    }

    #[inline]
    pub(super) fn is_user_mode(self, paging: &Paging) -> bool {
        match self.privilege {
            Privilege::Supervisor => false,
            Privilege::User => true,
            Privilege::Implicit => !paging.rules.has(Rule::ImplicitIsSupervisor),
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let privilege = match self.privilege {
            Privilege::Supervisor => "supervisor",
            Privilege::User => "user",
            Privilege::Implicit => "implicit",
        };
        let kind = match self.kind {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::Fetch => "fetch",
        };
        write!(f, "{privilege} {kind}")
    }
}

impl Rights {
    /// What CR3 grants, before any entry has taken something away.
    pub(super) const ALL: Self = Self { writable: true, user: true, executable: true, pkey: 0 };

    /// These rights below one more entry.
    #[inline]
    pub(super) fn below(self, level: Level, entry: u64, paging: &Paging) -> Self {
        let leaf = level.maps_page(entry);
        let counts = |rule| leaf || paging.rules.has(rule);
        let grants = |bit| entry & bit != 0;
        let keyed = leaf && (paging.pke || !paging.rules.has(Rule::PkeyNeedsPke));
        Self {
            writable: self.writable && (grants(bits::W) || !counts(Rule::WOfEveryLevel)),
            user: self.user && (grants(bits::U) || !counts(Rule::UOfEveryLevel)),
            executable: self.executable && !(paging.nxe && grants(bits::NX) && counts(Rule::NxOfAnyLevel)),
            pkey: if keyed { ((entry & bits::PKEY) >> 59) as u8 } else { 0 },
        }
    }

    /// The error code of `access` to a page with these rights, or none if they suffice.
    pub(super) fn refuse(self, access: Access, paging: &Paging) -> Option<ErrorCode> {
        let refused = self.refuses_mode(access, paging);
        let by_key = self.refuses_key(access, paging);
        if !refused && !by_key {
            return None;
        }
        let reports_key = by_key && (!refused || paging.rules.has(Rule::PkReportedAlways));
        Some(
            ErrorCode::of_access(access, paging)
                | ErrorCode::P.only_if(paging.rules.has(Rule::ProtectionSetsP))
                | ErrorCode::PK.only_if(reports_key),
        )
    }

    /// Access rights without protection keys (SDM 4.6.1).
    fn refuses_mode(self, access: Access, paging: &Paging) -> bool {
        let rules = paging.rules;
        let user_mode = access.is_user_mode(paging);
        if user_mode && !self.user && rules.has(Rule::UserNeedsU) {
            return true;
        }
        let supervisor_on_user_page = !user_mode && self.user;
        match access.kind {
            Kind::Fetch => {
                let smep = paging.smep && rules.has(Rule::Smep);
                !self.executable && rules.has(Rule::NxForbidsFetch) || supervisor_on_user_page && smep
            }
            Kind::Write if self.refuses_write(access, paging) => true,
            Kind::Read | Kind::Write => supervisor_on_user_page && smap_holds(access, paging),
        }
    }

    fn refuses_write(self, access: Access, paging: &Paging) -> bool {
        let wp = paging.wp && paging.rules.has(Rule::WpForSupervisor);
        let bound = access.is_user_mode(paging) || wp;
        !self.writable && bound && paging.rules.has(Rule::WriteNeedsW)
    }

    /// Protection keys (SDM 4.6.2).
    fn refuses_key(self, access: Access, paging: &Paging) -> bool {
        let rules = paging.rules;
        let guarded = (paging.pke || !rules.has(Rule::PkeyNeedsPke))
            && (self.user || !rules.has(Rule::PkeyUserPagesOnly))
            && (access.kind != Kind::Fetch || !rules.has(Rule::PkeyDataOnly));
        if !guarded {
            return false;
        }
        let key = paging.pkru >> (2 * self.pkey as u32);
        let (access_disable, write_disable) = (key & 1 != 0, key & 2 != 0);
        let bound = access.is_user_mode(paging) || paging.wp || !rules.has(Rule::PkeyWriteFreeWithoutWp);
        let writes = access.kind == Kind::Write && bound;
        access_disable && rules.has(Rule::PkeyAccessDisable)
            || write_disable && writes && rules.has(Rule::PkeyWriteDisable)
    }
}

/// SMAP is on, and EFLAGS.AC does not lift it for this access.
fn smap_holds(access: Access, paging: &Paging) -> bool {
    let rules = paging.rules;
    let liftable = access.privilege != Privilege::Implicit || !rules.has(Rule::AcNeverForImplicit);
    let lifted = access.ac && liftable && rules.has(Rule::AcExempts);
    paging.smap && rules.has(Rule::Smap) && !lifted
}
