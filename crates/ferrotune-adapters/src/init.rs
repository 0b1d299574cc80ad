//! First values of factors that come out of the base: PiSSA, OLoRA and LoftQ.
//!
//! | word | A, B | taken out of the base |
//! |---|---|---|
//! | `pissa` (arXiv:2404.02948) | `√(S/s) Vᵀ`, `U √(S/s)` of the `r` largest singular values | `s·BA` |
//! | `pissa_niter_N` | the same by a randomized decomposition with `N` power iterations | `s·BA` |
//! | `olora` (arXiv:2406.01775) | the first `r` rows of R and columns of Q in `W = QR` | `s·BA` |
//! | `loftq` (arXiv:2310.08659) | the `r` largest singular values of what the storage's rounding lost, as for `pissa` | `s·BA` of the iteration before; nothing in the first |
//!
//! What is taken out is taken from the weight before the storage gets it, so the base becomes `Q(W - s·B₀A₀)`, where `Q` is what
//! the storage makes of a matrix, and what trains fits that base only. Saved, it is `s·BA - s·B₀A₀`: a product of twice the rank, which
//! fits the base as it is in its checkpoint, with any reader.
//!
//! Over a dense base that is exact. Over a quantized one no adapter of low rank is, on `Q(W)`: with `E(X) = Q(X) - X` it would have to
//! be `s·BA - s·B₀A₀ + E(W - s·B₀A₀) - E(W)`, and the difference of two roundings has full rank. PEFT does not escape this either:
//! its `path_initial_model_for_weight_conversion` writes the same product, it refuses PiSSA on a quantized base, and OLoRA there
//! quantizes a weight twice. What is exact is a reader that has W and both halves of the factors: it takes `s·B₀A₀` out of W and
//! quantizes the rest as training did, bit for bit. So the file says which half is which, and what reads it here is that reader:
//! [`Lora::load`](crate::Lora::load), and [`merge`](crate::merge) onto dequantize(quantize(W)). Several adapters on one base have one
//! base, and a checkpoint in 4 bits has no W: there the product goes onto the base as it is, two roundings off.
//!
//! PEFT's LoftQ leaves the scaling out of account; here it is divided out, as in PiSSA, so that the model starts at what
//! LoftQ means for every alpha.

use std::{collections::BTreeMap, ops::Range};

use ferrotune_nn::{Encoded, Result as ModelResult, WeightSource};
use ferrotune_torch::SharedTensor;
use tch::{Device, Kind, Tensor};

use crate::{Init, Result, factors::Factor, target::Scale};

/// First values, and what the base loses to them.
#[derive(Debug)]
pub(crate) struct Derived {
    pub(crate) a: Tensor, // [rank, in]
    pub(crate) b: Tensor, // [out, rank]
    pub(crate) taken: Option<Taken>,
}

impl Derived {
    /// The first values and the loss of the base that the factors `[2 · rank, in]` and `[out, 2 · rank]` of a saved adapter hold.
    pub(crate) fn of_halves(a: &Tensor, b: &Tensor, scaling: f64) -> Result<Self> {
        let rank = a.size()[0] / 2;
        let own =
            |tensor: Tensor| -> Result<SharedTensor> { Ok(tensor.f_contiguous()?.f_detach_copy()?.into()) };
        let first_a = own(a.f_narrow(0, rank, rank)?)?;
        let first_b = own(b.f_narrow(1, rank, rank)?.f_neg()?)?;
        let taken = Some(Taken { a: first_a, b: first_b, scaling });
        Ok(Self { a: a.f_narrow(0, 0, rank)?, b: b.f_narrow(1, 0, rank)?, taken })
    }

    pub(crate) fn of(&self, factor: Factor) -> &Tensor {
        match factor {
            Factor::A => &self.a,
            Factor::B => &self.b,
        }
    }
}

/// A product of low rank that is taken out of the base, `s · B A`.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) a: SharedTensor, // [rank, in]
    pub(crate) b: SharedTensor, // [out, rank]
    pub(crate) scaling: f64,
}

impl Taken {
    pub(crate) fn of(&self, factor: Factor) -> &SharedTensor {
        match factor {
            Factor::A => &self.a,
            Factor::B => &self.b,
        }
    }

    /// `weight - s · B A`, on the weight's device, in 32 bits or more.
    pub(crate) fn out_of(&self, weight: &Tensor) -> ModelResult<Tensor> {
        let (device, kind) = (weight.device(), wide(weight.kind()));
        let here = |tensor: &Tensor| tensor.f_detach()?.f_to_device(device)?.f_to_kind(kind);
        let product = here(&self.b)?.f_matmul(&here(&self.a)?)?.f_mul_scalar(self.scaling)?;
        Ok(weight.f_to_kind(kind)?.f_sub(&product)?)
    }
}

/// The first values that `init` gives for `weight`, `[out, in]` in 32 bits or more, as factors of type `kind`; nothing
/// where LoftQ finds that the storage loses nothing. `rounded` is what the storage makes of a matrix.
pub(crate) fn derive(
    init: &Init,
    weight: &Tensor,
    Scale { rank, scaling }: Scale,
    kind: Kind,
    rounded: impl Fn(&Tensor) -> ModelResult<Option<Tensor>>,
) -> Result<Option<Derived>> {
    let principal = |weight: &Tensor, iterations| -> Result<Taken> {
        let (u, s, v) = match iterations {
            None => weight.f_svd(true, true)?,
            Some(iterations) => randomized_svd(weight, rank, iterations)?,
        };
        let root = s.f_narrow(0, 0, rank)?.f_div_scalar(scaling)?.f_sqrt()?;
        let a = v.f_narrow(1, 0, rank)?.f_mul(&root)?.f_tr()?;
        let b = u.f_narrow(1, 0, rank)?.f_mul(&root)?;
        taken(&a, &b, scaling, kind)
    };
    let whole = |taken: Taken| {
        Some(Derived { a: taken.a.shallow_clone(), b: taken.b.shallow_clone(), taken: Some(taken) })
    };
    Ok(match init {
        Init::Pissa { iterations } => whole(principal(weight, *iterations)?),
        Init::Olora => {
            let (q, r) = Tensor::f_linalg_qr(weight, "reduced")?;
            whole(taken(&r.f_narrow(0, 0, rank)?, &q.f_narrow(1, 0, rank)?, scaling, kind)?)
        }
        Init::Loftq { iterations } => {
            let mut before: Option<Taken> = None;
            for iteration in 1.. {
                let rest =
                    before.as_ref().map_or_else(|| Ok(weight.shallow_clone()), |it| it.out_of(weight))?;
                let Some(rounded) = rounded(&rest)? else { return Ok(None) };
                let lost = weight.f_sub(&rounded.f_to_device(weight.device())?.f_to_kind(weight.kind())?)?;
                let newest = principal(&lost, None)?;
                if iteration >= *iterations {
                    let (a, b) = (newest.a.shallow_clone(), newest.b.shallow_clone());
                    return Ok(Some(Derived { a, b, taken: before }));
                }
                before = Some(newest);
            }
            None
        }
        Init::Default | Init::Random | Init::Gaussian | Init::Other(_) => None,
    })
}

/// Factors rounded to what they train in, before the base loses their product.
fn taken(a: &Tensor, b: &Tensor, scaling: f64, kind: Kind) -> Result<Taken> {
    let own = |tensor: &Tensor| -> Result<SharedTensor> {
        Ok(tensor.f_to_kind(kind)?.f_contiguous()?.f_detach_copy()?.into())
    };
    Ok(Taken { a: own(a)?, b: own(b)?, scaling })
}

/// U, S and V of the `rank` largest singular values by power iteration (Halko, Martinsson and Tropp, arXiv:0909.4061,
/// algorithms 4.4 and 5.1) without oversampling, from libtorch's default generator on the CPU.
fn randomized_svd(weight: &Tensor, rank: i64, iterations: u32) -> Result<(Tensor, Tensor, Tensor)> {
    let (rows, columns) = weight.size2()?;
    let wide = rows < columns;
    let tall = if wide { weight.f_tr()? } else { weight.shallow_clone() };
    let start = Tensor::f_randn([tall.size()[1], rank], (weight.kind(), Device::Cpu))?;
    let basis = |tensor: Tensor| -> Result<Tensor> { Ok(Tensor::f_linalg_qr(&tensor, "reduced")?.0) };
    let mut q = basis(tall.f_matmul(&start.f_to_device(weight.device())?)?)?;
    for _ in 0..iterations {
        q = basis(tall.f_tr()?.f_matmul(&q)?)?;
        q = basis(tall.f_matmul(&q)?)?;
    }
    let (u, s, v) = q.f_tr()?.f_matmul(&tall)?.f_svd(true, true)?;
    let u = q.f_matmul(&u)?;
    Ok(if wide { (v, s, u) } else { (u, s, v) })
}

/// The type in which decompositions are made of a weight of type `kind`.
pub(crate) fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { Kind::Double } else { Kind::Float }
}

/// A view of weights from which products of low rank were taken.
pub(crate) struct Residual<'s> {
    source: &'s dyn WeightSource,
    taken: BTreeMap<String, Taken>,
}

impl<'s> Residual<'s> {
    /// `source` less what is `taken`, by the names of tensors.
    pub(crate) fn new(source: &'s dyn WeightSource, taken: BTreeMap<String, Taken>) -> Self {
        Self { source, taken }
    }
}

impl WeightSource for Residual<'_> {
    fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.source.shape(name)
    }

    fn read(&self, name: &str) -> ModelResult<Tensor> {
        let stored = self.source.read(name)?;
        match self.taken.get(name) {
            None => Ok(stored),
            Some(taken) => taken.out_of(&stored),
        }
    }

    fn read_rows(&self, name: &str, rows: Range<i64>) -> ModelResult<Tensor> {
        if self.taken.contains_key(name) {
            return Ok(self.read(name)?.f_narrow(0, rows.start, rows.end - rows.start)?);
        }
        self.source.read_rows(name, rows)
    }

    fn encoded(&self, name: &str) -> ModelResult<Option<Encoded>> {
        if self.taken.contains_key(name) { Ok(None) } else { self.source.encoded(name) }
    }

    fn names(&self) -> Vec<String> {
        self.source.names()
    }

    fn place(&self) -> String {
        self.source.place()
    }
}
