//! First values that come from the base, and what the base loses to them.

use ferrotune_nn::{Site, Storage, Weights};
use ferrotune_torch::SharedTensor;
use tch::{Kind, Tensor, no_grad};

use super::draft::{Draft, keys};
use crate::{
    Error, Init, Result,
    factors::{Factor, fresh},
    files,
    init::{Derived, Taken, derive, wide},
    target::Scale,
};

impl Draft {
    /// Finds the first values of the factors at `at` if they come from its weight, and returns what the base loses to
    /// them. `names` are the module's in the file.
    pub(super) fn derive<S: Storage>(
        &mut self,
        storage: &S,
        site: &Site,
        scale: Scale,
        names: &[String],
        at: &Weights<'_>,
    ) -> Result<Option<Taken>> {
        let init = self.config.init_lora_weights.clone();
        if !init.derives() || self.origin.is_some() && !init.changes_base() {
            return Ok(None);
        }
        let Scale { rank, scaling } = scale;
        let mut read = |rank| -> Result<Option<(Tensor, Tensor)>> {
            let Some(taker) = &mut self.origin else { return Ok(None) };
            let a = taker.take(&keys(names, files::leaf(Factor::A)), &[rank, site.dims.in_features])?;
            let b = taker.take(&keys(names, files::leaf(Factor::B)), &[site.dims.out_features, rank])?;
            Ok(Some((a, b)))
        };
        let derived = if self.resumes {
            require_dense(&init, site, at)?;
            let Some((a, b)) = read(2 * rank)? else { return Ok(None) };
            Some(Derived::of_halves(&a, &b, scaling)?)
        } else {
            let read = read(rank)?;
            let derived = self.of_weight(storage, site, scale, at)?;
            match (derived, read) {
                (Some(derived), Some((a, b))) => Some(Derived { a, b, ..derived }),
                (derived, _) => derived,
            }
        };
        let Some(derived) = derived else {
            if init.changes_base() {
                // Saved with twice the rank like all others, although the base loses nothing here.
                let of = |factor, shape: [i64; 2]| fresh(&init, factor, &shape, rank);
                let a = of(Factor::A, [rank, site.dims.in_features])?;
                let b = of(Factor::B, [site.dims.out_features, rank])?;
                let zeros = |tensor: &Tensor| -> Result<SharedTensor> { Ok(tensor.f_zeros_like()?.into()) };
                let taken = Some(Taken { a: zeros(&a)?, b: zeros(&b)?, scaling });
                self.derived.insert(at.path().to_owned(), Derived { a, b, taken });
            }
            return Ok(None);
        };
        let taken = derived.taken.clone();
        self.derived_any = true;
        self.derived.insert(at.path().to_owned(), derived);
        Ok(taken)
    }

    /// First values that come from the weight at `at`.
    fn of_weight<S: Storage>(
        &self,
        storage: &S,
        site: &Site,
        scale: Scale,
        at: &Weights<'_>,
    ) -> Result<Option<Derived>> {
        let (init, shape) = (&self.config.init_lora_weights, site.dims.shape());
        require_dense(init, site, at)?;
        let most = shape[0].min(shape[1]);
        if scale.rank > most {
            let (path, rank, init) = (at.path().to_owned(), scale.rank, init.to_string());
            return Err(Error::RankAboveWidth { path, rank, shape, most, init });
        }
        let stored = at.stored("weight", &shape)?;
        let kind = if self.kind == Kind::Double { Kind::Double } else { wide(stored.kind()) };
        let weight = stored.f_to_device(at.device())?.f_to_kind(kind)?;
        require_finite(&weight, at)?;
        no_grad(|| derive(init, &weight, scale, self.kind, |weight| storage.rounded(site.role, weight)))
    }

    /// First values found by [`derive`](Self::derive), once.
    pub(super) fn take_derived(&mut self, path: &str) -> Option<Derived> {
        self.derived.remove(path)
    }
}

/// Refuses a weight of which nothing can be taken, because only its 4 bits are there.
fn require_dense(init: &Init, site: &Site, at: &Weights<'_>) -> Result<()> {
    if at.encoded("weight", &site.dims.shape())?.is_none() {
        return Ok(());
    }
    let (path, place) = (at.path().to_owned(), at.place());
    Err(Error::QuantizedOrigin { path, place, init: init.to_string() })
}

/// Refuses a weight that cannot be decomposed, before the decomposition fails without a name.
fn require_finite(weight: &Tensor, at: &Weights<'_>) -> Result<()> {
    let broken = weight.f_isfinite()?.f_logical_not()?.f_flatten(0, -1)?;
    if broken.f_any()?.f_int64_value(&[])? == 0 {
        return Ok(());
    }
    let index = broken.f_to_kind(Kind::Int)?.f_argmax(0, false)?.f_int64_value(&[])?;
    Err(Error::NotFinite { name: format!("{}.weight", at.path()), place: at.place(), index })
}
