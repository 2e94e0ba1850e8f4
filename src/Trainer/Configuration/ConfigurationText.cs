using System.Buffers;
using System.Globalization;
using System.Text.Json;
using YamlDotNet.Core;
using YamlDotNet.RepresentationModel;

namespace LongNet.Trainer.Configuration;

/// <summary>Writes configurations as YAML and as JSON.</summary>
internal static class ConfigurationText
{
    /// <summary>The complete configuration as YAML, every default written out; reading it gives an equal one.</summary>
    public static string ToYaml(RunConfig config) => Text(YamlNodes.Of(config));

    /// <summary>
    /// The same as a JSON object, which is YAML too. Numbers and truth values are JSON's, "auto" and all else is text.
    /// </summary>
    public static JsonElement ToJson(RunConfig config)
    {
        var text = new ArrayBufferWriter<byte>();
        using (var json = new Utf8JsonWriter(text))
            Write(json, YamlNodes.Of(config));
        return JsonElement.Parse(text.WrittenSpan);

        static void Write(Utf8JsonWriter json, YamlNode node)
        {
            switch (node)
            {
                case YamlMappingNode mapping:
                    json.WriteStartObject();
                    foreach (var (key, value) in mapping.Children)
                    {
                        json.WritePropertyName($"{key}");
                        Write(json, value);
                    }

                    json.WriteEndObject();
                    break;
                case YamlSequenceNode sequence:
                    json.WriteStartArray();
                    foreach (YamlNode item in sequence)
                        Write(json, item);
                    json.WriteEndArray();
                    break;
                case YamlScalarNode { Style: ScalarStyle.DoubleQuoted } text:
                    json.WriteStringValue(text.Value);
                    break;
                case YamlScalarNode { Value: "null" }:
                    json.WriteNullValue();
                    break;
                case YamlScalarNode { Value: "true" or "false" } flag:
                    json.WriteBooleanValue(flag.Value == "true");
                    break;
                case YamlScalarNode scalar when IsJsonNumber(scalar.Value!):
                    json.WriteRawValue(scalar.Value!);
                    break;
                default:
                    json.WriteStringValue($"{node}");
                    break;
            }
        }

        static bool IsJsonNumber(string text) =>
            text is [(>= '0' and <= '9') or '-', ..]
            && double.TryParse(text, CultureInfo.InvariantCulture, out double value)
            && double.IsFinite(value);
    }

    /// <summary>
    /// A configuration that was kept as JSON, as YAML: key by key as it is, so that one of another version of the
    /// program can be read too.
    /// </summary>
    public static string ToYaml(JsonElement config) => Text(YamlNodes.Of(config));

    private static string Text(YamlNode node)
    {
        using var text = new StringWriter(CultureInfo.InvariantCulture);
        new YamlStream(new YamlDocument(node)).Save(text, assignAnchors: false);
        return text.ToString().Replace("...\n", "", StringComparison.Ordinal);
    }
}
