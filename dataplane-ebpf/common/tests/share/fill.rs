//! The oracle: exact water-filling over whole rates, tenant by tenant, in the order in which the water
//! reaches them. It shares no code with the law.

/// What a tenant asks for, bits per second.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    pub guarantee: u64,
    pub ceiling: u64,
    pub weight: u64,
    pub demand: u64,
}

impl Want {
    fn most(&self) -> u64 {
        self.demand.min(self.ceiling)
    }
}

/// What each tenant has, bits per second, rounded down.
pub fn fill(capacity: u64, wants: &[Want]) -> Vec<u64> {
    let mut has: Vec<u64> = wants
        .iter()
        .map(|want| want.most().min(want.guarantee))
        .collect();
    let mut left = capacity.saturating_sub(has.iter().sum());
    let mut thirsty: Vec<usize> = (0..wants.len())
        .filter(|&at| wants[at].most() > has[at])
        .collect();
    // Who is full first: by what it lacks for each unit of weight.
    thirsty.sort_by(|&a, &b| {
        let lack = |at: usize| u128::from(wants[at].most() - has[at]);
        let weight = |at: usize| u128::from(wants[at].weight);
        (lack(a) * weight(b)).cmp(&(lack(b) * weight(a)))
    });
    let mut weights: u64 = thirsty.iter().map(|&at| wants[at].weight).sum();
    for at in thirsty {
        let want = &wants[at];
        let part = u128::from(left) * u128::from(want.weight) / u128::from(weights);
        let gets = (want.most() - has[at]).min(part as u64);
        has[at] += gets;
        left -= gets;
        weights -= want.weight;
    }
    has
}

#[test]
fn fills_by_weight_above_guarantees_and_below_ceilings() {
    let want = |guarantee, ceiling, weight, demand| Want {
        guarantee,
        ceiling,
        weight,
        demand,
    };
    let none = u64::MAX;
    let all = [want(100, none, 1, 500), want(300, none, 1, 500)];
    assert_eq!(fill(500, &all), [150, 350]);
    let weighted = [want(0, none, 1, 500), want(0, none, 3, 500)];
    assert_eq!(fill(400, &weighted), [100, 300]);
    let one_is_full = [
        want(0, 50, 1, 500),
        want(0, none, 1, 500),
        want(0, none, 1, 500),
    ];
    assert_eq!(fill(450, &one_is_full), [50, 200, 200]);
    let idle = [want(300, none, 1, 0), want(0, none, 1, 500)];
    assert_eq!(fill(400, &idle), [0, 400]);
}
