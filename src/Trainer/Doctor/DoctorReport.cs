using System.Text;
using System.Text.Json;
using LongNet.Trainer.Planning.Machines;

namespace LongNet.Trainer.Doctor;

/// <summary>The doctor's findings: as text a line each, and at the end "ready" or what to fix; or as JSON.</summary>
internal static class DoctorReport
{
    public const string Ready = "ready";

    public static bool IsReady(IEnumerable<Finding> findings) => findings.All(finding => finding.Mark != Mark.Fix);

    public static string Text(IReadOnlyList<Finding> findings)
    {
        var text = new StringBuilder();
        foreach (Finding finding in findings)
            text.Append(Line(finding)).Append('\n');
        if (IsReady(findings))
            return text.Append(Ready).Append('\n').ToString();
        string[] remedies = [.. findings.Select(finding => finding.Remedy).OfType<string>()];
        text.Append(remedies.Length == 1 ? "1 thing to fix:\n" : $"{remedies.Length} things to fix:\n");
        for (int i = 0; i < remedies.Length; i++)
            text.Append($"{i + 1}. {remedies[i]}\n");
        return text.ToString();
    }

    /// <summary>
    /// The findings, and the machine as <see cref="MachineFile"/> reads it; null where ranks cannot start.
    /// </summary>
    public static string Json(IReadOnlyList<Finding> findings, Machine? machine) =>
        JsonSerializer.Serialize(
            new
            {
                Ready = IsReady(findings),
                Findings = findings.Select(finding => new
                {
                    finding.Subject,
                    finding.Value,
                    Mark = finding.Mark.ToString().ToLowerInvariant(),
                    finding.Remedy,
                }),
                Machine = machine,
            },
            MachineFile.Json
        ) + "\n";

    private static string Line(Finding finding) =>
        $"{finding.Mark switch { Mark.Ok => "ok", Mark.Note => "note", _ => "FIX" }, -4}  "
        + $"{finding.Subject, -13}  {finding.Value}";
}
