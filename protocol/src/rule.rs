//! The rules by number, and how often each one has fired: a simulator that never saw a rule at work has not tested it.

/// A rule of the protocol (see this crate's README).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the README says what each one is")]
#[rustfmt::skip]
pub enum Rule {
    D1, D2, D3, D4,
    E1, E2, E3, E4, E5, E6, E7, E8, E9, E10, E11,
    T1, T2, T3, T4, T5, T6,
    W1, W2, W3, W4, W5, W6,
    O1, O2, O3, O4,
    S1, S2, S3, S4, S5, S6, S7, S8, S9, S10, S11, S12,
    G1, G2, G3, G4,
    C1, C2, C3, C4,
    L1, L2, L3,
    V1, V2, V3,
}

impl Rule {
    /// All of them, in the order of the README.
    #[rustfmt::skip]
    pub const ALL: [Self; 57] = {
        use Rule::*;
        [
            D1, D2, D3, D4,
            E1, E2, E3, E4, E5, E6, E7, E8, E9, E10, E11,
            T1, T2, T3, T4, T5, T6,
            W1, W2, W3, W4, W5, W6,
            O1, O2, O3, O4,
            S1, S2, S3, S4, S5, S6, S7, S8, S9, S10, S11, S12,
            G1, G2, G3, G4,
            C1, C2, C3, C4,
            L1, L2, L3,
            V1, V2, V3,
        ]
    };
}

/// How often each rule changed what a node did since its start.  A rule counts where it decides something that would be
/// different without it, not where it is merely looked at.
#[derive(Debug, Clone)]
pub struct Fired([u64; Rule::ALL.len()]);

impl Default for Fired {
    fn default() -> Self {
        Self([0; Rule::ALL.len()])
    }
}

impl Fired {
    pub(crate) fn count(&mut self, rule: Rule) {
        if let Some(n) = self.0.get_mut(rule as usize) {
            *n = n.saturating_add(1);
        }
    }
    /// All rules with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Rule, u64)> + '_ {
        Rule::ALL.into_iter().zip(self.0.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_its_own_count() {
        let mut f = Fired::default();
        Rule::ALL.into_iter().for_each(|r| f.count(r));
        assert!(f.iter().all(|(_, n)| n == 1));
        assert!(Rule::ALL.is_sorted());
    }
}
