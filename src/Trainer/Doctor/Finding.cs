namespace LongNet.Trainer.Doctor;

/// <summary>What a finding means.</summary>
internal enum Mark
{
    /// <summary>As it should be.</summary>
    Ok,

    /// <summary>Works, and is worth knowing.</summary>
    Note,

    /// <summary>Does not work, or wastes most of the machine.</summary>
    Fix,
}

/// <summary>One line of the doctor's report.</summary>
/// <param name="Subject">What was looked at, e.g. "affinity".</param>
/// <param name="Value">What was found.</param>
/// <param name="Mark">What it means.</param>
/// <param name="Remedy">Sentences that say what is wrong and what to do; null where nothing is to be fixed.</param>
internal sealed record Finding(string Subject, string Value, Mark Mark = Mark.Ok, string? Remedy = null)
{
    /// <summary>Something that has to be fixed.</summary>
    public static Finding ToFix(string subject, string value, string remedy) => new(subject, value, Mark.Fix, remedy);

    public static Finding Note(string subject, string value) => new(subject, value, Mark.Note);
}
