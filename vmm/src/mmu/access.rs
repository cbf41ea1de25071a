//! Accesses: what is done, and on whose behalf.

use std::fmt;

use super::paging::Paging;
use super::rules::PagingRule;

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
            Privilege::Implicit => !paging.rules.has(PagingRule::ImplicitIsSupervisor),
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
