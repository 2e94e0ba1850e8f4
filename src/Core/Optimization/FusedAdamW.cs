using System.Globalization;
using LongNet.Core.Native;
using LongNet.Core.Numerics;
using TorchSharp.Modules;
using static TorchSharp.torch;

namespace LongNet.Core.Optimization;

/// <summary>AdamW by libtorch's fused operator: one pass over parameters, gradients and state.</summary>
public sealed class FusedAdamW : IDisposable
{
    /// <summary>The step count's name in <see cref="State"/>.</summary>
    public const string StepName = "step";

    /// <summary>Before a parameter's name: the running mean of its gradients.</summary>
    public const string MeanPrefix = "exp_avg.";

    /// <summary>Before a parameter's name: the running mean of its squared gradients.</summary>
    public const string SquarePrefix = "exp_avg_sq.";

    private readonly AdamWOptions options;
    private readonly Device device;
    private readonly Group[] groups;
    private readonly TorchScriptModule kernel;
    private readonly List<(string Name, Tensor Value)> state = [];
    private readonly Tensor stepCount,
        oneStep,
        learningRate;

    /// <param name="parameters">Names and parameters; not owned.</param>
    /// <param name="gradients">The gradient of each, in the same order; read at every step. Not owned.</param>
    /// <param name="options">The method's constants.</param>
    public FusedAdamW(
        IReadOnlyList<(string Name, Parameter Parameter)> parameters,
        IReadOnlyList<Tensor> gradients,
        AdamWOptions options
    )
        : this(OfCompleteParameters(parameters, gradients), options) { }

    /// <param name="tensors">Parameters to update, or parts of them, under different names. State is made for these
    /// only.</param>
    /// <param name="options">The method's constants.</param>
    internal FusedAdamW(IReadOnlyList<OptimizedTensor> tensors, AdamWOptions options)
    {
        ArgumentNullException.ThrowIfNull(tensors);
        ArgumentNullException.ThrowIfNull(options);
        this.options = options;
        kernel = new TorchScriptModule(Script(options));
        // A GPU's kernel reads the step count by its address.
        device = tensors.Count > 0 ? tensors[0].Values.device : CPU;
        stepCount = zeros([], dtype: ScalarType.Float32, device: device).DetachFromDisposeScope();
        oneStep = ones([], dtype: ScalarType.Float32, device: CPU).DetachFromDisposeScope();
        learningRate = zeros([], dtype: ScalarType.Float64, device: CPU).DetachFromDisposeScope();
        state.Add((StepName, stepCount));

        var decayed = new Group("step_decayed", Decays: true);
        var plain = new Group("step_plain", Decays: false);
        foreach (OptimizedTensor optimized in tensors)
        {
            Group group = optimized.Decays ? decayed : plain;
            Tensor mean = zeros_like(optimized.Values).DetachFromDisposeScope();
            Tensor square = zeros_like(optimized.Values).DetachFromDisposeScope();
            group.Parameters.Add(optimized.Values);
            group.Gradients.Add(optimized.Gradient);
            group.Means.Add(mean);
            group.Squares.Add(square);
            group.Steps.Add(stepCount);
            state.Add((MeanPrefix + optimized.Name, mean));
            state.Add((SquarePrefix + optimized.Name, square));
        }

        groups = [.. new[] { decayed, plain }.Where(group => group.Parameters.Count > 0)];
    }

    /// <summary>
    /// What a checkpoint keeps: the step count, then both moments of every tensor given. Owned by the optimizer.
    /// </summary>
    public IReadOnlyList<(string Name, Tensor Value)> State => state;

    /// <summary>Memory that the state takes, in bytes.</summary>
    public long StateBytes => state.Sum(entry => TensorMemory.ByteLength(entry.Value));

    /// <summary>Updates every parameter in place.</summary>
    /// <param name="rate">The step's learning rate.</param>
    public void Step(double rate)
    {
        using var noGradient = no_grad();
        using var scope = NewDisposeScope();
        learningRate.copy_(tensor(rate, dtype: ScalarType.Float64, device: CPU));
        // Not the number itself: that overload makes a Scalar for its hidden factor, which a collection may free in the
        // call.
        stepCount.add_(oneStep, Scalars.One);
        foreach (Group group in groups)
        {
            if (!HasKernel)
            {
                PlainStep(group, rate);
                continue;
            }

            kernel.Invoke(
                group.Function,
                group.Parameters.ToArray(),
                group.Gradients.ToArray(),
                group.Means.ToArray(),
                group.Squares.ToArray(),
                group.Steps.ToArray(),
                learningRate
            );
        }
    }

    public void Dispose()
    {
        learningRate.Dispose();
        oneStep.Dispose();
        foreach (var (_, value) in state)
            value.Dispose();
    }

    private bool HasKernel => device.type is TorchSharp.DeviceType.CPU or TorchSharp.DeviceType.CUDA;

    // The kernel's arithmetic in tensor operations, for devices that it does not exist for.
    private void PlainStep(Group group, double rate)
    {
        Tensor one = Number(1),
            meanCorrection = one.sub(Number(options.Beta1).pow(stepCount)),
            squareCorrection = one.sub(Number(options.Beta2).pow(stepCount)).sqrt();
        for (int p = 0; p < group.Parameters.Count; p++)
        {
            using var scope = NewDisposeScope();
            var (parameter, gradient) = (group.Parameters[p], group.Gradients[p]);
            if (group.Decays)
                parameter.mul_(Number(1 - rate * options.WeightDecay));
            group.Means[p].lerp_(gradient, Number(1 - options.Beta1).to(device));
            group.Squares[p].lerp_(gradient.mul(gradient), Number(1 - options.Beta2).to(device));
            Tensor denominator = group.Squares[p].sqrt().div(squareCorrection).sub(Number(-options.Epsilon));
            parameter.sub_(group.Means[p].div(denominator).mul(Number(rate).div(meanCorrection)));
        }

        static Tensor Number(double value) => tensor(value, dtype: ScalarType.Float32, device: CPU);
    }

    // Each parameter is updated by one tensor that covers all of it.
    private static OptimizedTensor[] OfCompleteParameters(
        IReadOnlyList<(string Name, Parameter Parameter)> parameters,
        IReadOnlyList<Tensor> gradients
    )
    {
        ArgumentNullException.ThrowIfNull(parameters);
        ArgumentNullException.ThrowIfNull(gradients);
        if (parameters.Count != gradients.Count)
            throw new ArgumentException($"{parameters.Count} parameters have {gradients.Count} gradients.");
        return
        [
            .. parameters.Select(
                (entry, p) =>
                    new OptimizedTensor(
                        entry.Name,
                        entry.Parameter,
                        gradients[p],
                        OptimizedTensor.DecaysFor(entry.Parameter)
                    )
            ),
        ];
    }

    private static string Script(AdamWOptions options)
    {
        return Function("step_decayed", options.WeightDecay) + "\n" + Function("step_plain", 0);

        // Constants stand in the script, as a number passed by call would be a temporary Scalar.
        string Function(string name, double weightDecay) =>
            $"""
                def {name}(
                    params: List[Tensor], grads: List[Tensor], means: List[Tensor], squares: List[Tensor],
                    steps: List[Tensor], lr: Tensor
                ) -> int:
                    none: List[Tensor] = []
                    torch._fused_adamw_(params, grads, means, squares, none, steps, lr=lr, beta1={Number(
                    options.Beta1
                )}, beta2={Number(options.Beta2)}, weight_decay={Number(weightDecay)}, eps={Number(
                    options.Epsilon
                )}, amsgrad=False, maximize=False)
                    return 0

                """;

        // TorchScript takes a number for a float by its point or exponent.
        static string Number(double value) => value.ToString("0.0##################E+0", CultureInfo.InvariantCulture);
    }

    private sealed record Group(string Function, bool Decays)
    {
        public List<Tensor> Parameters { get; } = [];

        public List<Tensor> Gradients { get; } = [];

        public List<Tensor> Means { get; } = [];

        public List<Tensor> Squares { get; } = [];

        public List<Tensor> Steps { get; } = [];
    }
}
