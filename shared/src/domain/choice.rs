//! The options of a task that are one of a few words.
//!
//! Not here: what they are for (`options.rs`).

use serde::{Deserialize, Serialize};

use super::state::words;

words! {
    /// How hard the model thinks.
    Effort {
        /// `low`
        Low = "low",
        /// `medium`
        Medium = "medium",
        /// `high`
        High = "high",
        /// `xhigh`
        XHigh = "xhigh",
        /// `max`
        Max = "max",
    }
}

words! {
    /// What Claude may do without asking; later ones allow more.
    PermissionMode {
        /// Reads and plans only.
        Plan = "plan",
        /// Does what is allowed, refuses the rest without asking.
        DontAsk = "dontAsk",
        /// Asks (in a worker: is denied) what is not allowed.
        Default = "default",
        /// Edits files in the working directory.
        AcceptEdits = "acceptEdits",
        /// A classifier decides.
        Auto = "auto",
        /// Everything.
        BypassPermissions = "bypassPermissions",
    }
}

words! {
    /// Whose turn comes first. Who has waited for 10 minutes is taken one class higher, for 20 minutes two.
    Priority {
        /// Before all others.
        High = "high",
        /// Where nobody says.
        Normal = "normal",
        /// When nothing else is there.
        Low = "low",
    }
}

words! {
    /// What a task does when one that it was to follow did not succeed.
    AfterFailure {
        /// It is cancelled too, and what follows it.
        Cancel = "cancel",
        /// It runs all the same.
        Run = "run",
    }
}

words! {
    /// Where the files that a task works on are its own.
    Isolation {
        /// The working directory itself.
        None = "none",
    }
}
